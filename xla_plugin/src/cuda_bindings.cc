// Python bindings of CUDA devices and pinned memory.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>

#include "bindings.h"
#include "cuda_device.h"

namespace py = pybind11;

namespace missile {
namespace {

std::shared_ptr<PinnedMemory> Pin(const std::shared_ptr<CudaDevice>& device,
                                  std::int64_t size_bytes) {
  if (size_bytes < 0) {
    throw py::value_error("size_bytes is " + std::to_string(size_bytes) +
                          ", and must not be negative");
  }
  py::gil_scoped_release release;
  return std::make_shared<PinnedMemory>(device, static_cast<std::size_t>(size_bytes));
}

py::buffer_info BufferOf(PinnedMemory& memory) {
  return py::buffer_info(reinterpret_cast<std::uint8_t*>(memory.data()),
                         static_cast<py::ssize_t>(memory.size_bytes()));
}

}  // namespace

void BindCuda(py::module_& m) {
  py::class_<PinnedMemory, std::shared_ptr<PinnedMemory>>(
      m, "PinnedMemory", py::buffer_protocol(),
      "Bytes of the host's memory that a GPU reads and writes by itself, with the buffer protocol.")
      .def_buffer(&BufferOf)
      .def("__len__", &PinnedMemory::size_bytes);
  py::class_<CudaDevice, std::shared_ptr<CudaDevice>>(
      m, "CudaDevice",
      "A GPU, by its number among those that the process sees, with the context that XLA uses too. "
      "`driver` is the path of CUDA's library; else MISSILE_CUDA_DRIVER is, or libcuda.so.1. "
      "Raises "
      "RuntimeError if there is no driver, ValueError if there is no such device.")
      .def(py::init<int, const std::string&>(), py::arg("ordinal") = 0, py::arg("driver") = "",
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("ordinal", &CudaDevice::ordinal)
      .def("pinned", &Pin, py::arg("size_bytes"),
           "Pinned memory, not zeroed. Raises MemoryError if the system has not that much.");
}

}  // namespace missile
