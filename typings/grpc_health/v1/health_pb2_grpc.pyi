# Made at run time from a descriptor, so there is nothing for a type checker to read.
from typing import Any

def __getattr__(name: str) -> Any: ...
