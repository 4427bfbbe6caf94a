"""Custom calls of JAX's own, given to a CPU plugin that was built without them.

JAX's LAPACK and its callbacks are FFI handlers in jaxlib, which registers them with its own CPU
client alone. A CPU plugin takes them through the ABI's FFI extension. The CUDA plugin brings its
own, and JAX gives them to its library, which is the wrapped one.
"""

from __future__ import annotations

import ctypes
from typing import Any

from jaxlib import xla_client

from missile_jax.errors import PluginError

_FFI_EXTENSION = 5
_TYPED_FFI = 1
_BUFFER_CALLBACK = "xla_buffer_python_cpu_callback"


class Extension(ctypes.Structure):
    """How every extension of a plugin's table begins."""


Extension._fields_ = [
    ("struct_size", ctypes.c_size_t),
    ("type", ctypes.c_int),
    ("next", ctypes.POINTER(Extension)),
]


class _Api(ctypes.Structure):
    """How the table begins."""

    _fields_ = (("struct_size", ctypes.c_size_t), ("extensions", ctypes.POINTER(Extension)))


class _RegisterArgs(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("name_size", ctypes.c_size_t),
        ("handler", ctypes.c_void_p),
        ("platform", ctypes.c_char_p),
        ("platform_size", ctypes.c_size_t),
        ("traits", ctypes.c_int),
    )


class _FfiExtension(ctypes.Structure):
    _fields_ = (
        ("base", Extension),
        ("register_type", ctypes.c_void_p),
        ("add_user_data", ctypes.c_void_p),
        (
            "register_handler",
            ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_RegisterArgs)),
        ),
    )


def share_host_handlers(c_api: Any) -> None:
    """Gives a CPU plugin what JAX, or a program, registers for CPUs: from now on, and until now.

    Typed handlers of one stage only, which is all that the ABI takes; so no callbacks of jaxlib's
    but those of `jax.experimental.buffer_callback`. jaxlib's own CPU client gets all of them, as
    ever. Without an FFI extension the plugin gets none.

    c_api: the plugin's table, as `register_plugin` returns it.
    """
    link = find_extension(c_api, _FFI_EXTENSION)
    extension = ctypes.cast(link, ctypes.POINTER(_FfiExtension)).contents if link else None

    def share(name: str, fn: Any, platform: str, api_version: int = 0, traits: Any = 0) -> None:
        # What make_cpu_client() would register: jaxlib takes one handler for CPUs.
        xla_client._xla.register_custom_call_target(name, fn, platform, api_version, traits)
        if api_version == _TYPED_FFI:
            give(name, fn, traits)

    def give(name: str | bytes, fn: Any, traits: Any = 0) -> None:
        if extension is None or isinstance(fn, dict):
            return
        encoded = name.encode() if isinstance(name, str) else name
        args = _RegisterArgs(
            ctypes.sizeof(_RegisterArgs),
            encoded,
            len(encoded),
            pointer(fn),
            b"Host",
            len(b"Host"),
            int(traits),
        )
        if extension.register_handler(ctypes.byref(args)):
            raise PluginError(f"the wrapped plugin refuses the custom call {name!r}")

    xla_client.register_custom_call_handler("cpu", share)
    builtin = xla_client.custom_call_targets("cpu")
    if _BUFFER_CALLBACK in builtin:
        give(_BUFFER_CALLBACK, builtin[_BUFFER_CALLBACK]["execute"])


def pointer(capsule: Any) -> int:
    """What a capsule holds, whatever its name is."""
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return get_pointer(capsule, get_name(capsule))


def find_extension(c_api: Any, kind: int) -> Any:
    """A pointer to the extension of this type in a plugin's table, or None."""
    api = ctypes.cast(pointer(c_api), ctypes.POINTER(_Api)).contents
    link = api.extensions
    while link:
        if link.contents.type == kind:
            return link
        link = link.contents.next
    return None
