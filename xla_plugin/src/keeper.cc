#include "keeper.h"

#include <cstdint>
#include <utility>

namespace py = pybind11;

namespace missile {

PyKeeper::PyKeeper(py::object on_done) : Keeper(!on_done.is_none()), on_done_(std::move(on_done)) {}

// pybind11 throws if the interpreter has lost its state: then the end of the process is right.
// NOLINTNEXTLINE(bugprone-exception-escape)
PyKeeper::~PyKeeper() {
  py::gil_scoped_acquire gil;
  for (Py_buffer& view : views_) PyBuffer_Release(&view);
  // Members die after `gil`, so they are emptied here.
  for (py::object& owner : owners_) owner = py::object();
  on_done_ = py::object();
}

Extent PyKeeper::Hold(std::size_t side, const py::object& object, bool writable) {
  if (!py::isinstance<py::tuple>(object)) {
    Py_buffer& view = views_.at(side);
    if (PyObject_GetBuffer(object.ptr(), &view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
      view = Py_buffer{};
      throw py::error_already_set();
    }
    return {static_cast<std::byte*>(view.buf), static_cast<std::size_t>(view.len)};
  }
  const auto pair = py::cast<py::tuple>(object);
  if (pair.size() != 2) throw py::value_error("an address must come as (address, owner)");
  const auto address = py::cast<std::uintptr_t>(pair[0]);
  if (address == 0) throw py::value_error("an address must not be 0");
  owners_.at(side) = pair[1];
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address from Python is a number.
  return {reinterpret_cast<std::byte*>(address), SIZE_MAX - address};
}

void PyKeeper::OnEnd(const std::shared_ptr<Copy>& copy) {
  py::gil_scoped_acquire gil;
  try {
    on_done_(copy);
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable(on_done_);
  }
}

}  // namespace missile
