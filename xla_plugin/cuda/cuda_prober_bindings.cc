// Python bindings of the timings that a GPU takes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "../src/bindings.h"
#include "cuda_prober.h"

namespace py = pybind11;

namespace missile {

void BindCudaProber(py::module_& m) {
  py::class_<CudaProber>(m, "CudaProber",
                         "Timings of a GPU's memory, of addresses 0 ... 2 MiB * pages in memory of "
                         "its own. Each is the least of `repeats`; `multiprocessor` measures, all "
                         "others load. For a GPU that nothing else uses at the time.")
      .def(py::init([](std::shared_ptr<CudaDevice> device, const std::string& ptx,
                       std::size_t pages, unsigned multiprocessor, unsigned repeats) {
             return std::make_unique<CudaProber>(std::move(device), ptx, pages, multiprocessor,
                                                 repeats);
           }),
           py::arg("device"), py::arg("ptx"), py::kw_only(), py::arg("pages") = 64,
           py::arg("multiprocessor") = 0, py::arg("repeats") = 3)
      .def_property_readonly("pages", &CudaProber::pages)
      .def_property_readonly("gpu", &CudaProber::gpu, "The GPU's name.")
      .def("pair_latency_ns", &CudaProber::PairLatencyNs, py::arg("first"), py::arg("second"),
           "Mean latency of going to and fro between two addresses, past the L2. Raises IndexError "
           "outside the range, RuntimeError where the GPU fails.")
      .def("set_throughput", &CudaProber::SetThroughput, py::arg("loaded"), py::arg("measured"),
           "Accesses per us of a warp over `measured` while all others stream `loaded`. Raises "
           "ValueError for more than 64 addresses, IndexError outside the range.")
      .def("l2_latency_ns", &CudaProber::L2LatencyNs, py::arg("address"),
           "Of one address in the L2, from the multiprocessor that measures.");
}

}  // namespace missile
