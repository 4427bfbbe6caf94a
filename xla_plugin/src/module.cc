// The Python module: small parts are bound here, larger ones each in a file of their own.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "bindings.h"
#include "heap.h"
#include "staging.h"

namespace py = pybind11;

namespace {

py::array ArrayOf(std::unique_ptr<missile::StagingBlock> block, const py::dtype& dtype,
                  const std::vector<py::ssize_t>& shape) {
  void* data = block->data();
  py::capsule owner(block.release(),
                    [](void* p) { delete static_cast<missile::StagingBlock*>(p); });
  return py::array(dtype, shape, data, owner);
}

// Stacks C-contiguous parts along their first axis into one aligned array of `rows` rows,
// zero-padded behind the last part. Sizes are checked here because the copies run without the GIL.
py::array StackRows(const py::list& parts, py::ssize_t rows) {
  if (parts.empty()) throw py::value_error("stack_rows: no parts");
  py::array first = py::cast<py::array>(parts[0]);
  if (first.ndim() < 1) throw py::value_error("stack_rows: parts must have a first axis");
  std::vector<py::ssize_t> shape(first.shape(), first.shape() + first.ndim());
  py::ssize_t row_bytes = first.itemsize();
  for (std::size_t axis = 1; axis < shape.size(); ++axis) row_bytes *= shape[axis];

  struct Part {
    const std::byte* data;
    std::size_t size_bytes;
  };
  std::vector<Part> sources;
  std::vector<py::array> keep_alive;
  py::ssize_t filled = 0;
  for (py::handle item : parts) {
    py::array part = py::cast<py::array>(item);
    bool same = part.ndim() == first.ndim() && part.dtype().equal(first.dtype());
    for (py::ssize_t axis = 1; same && axis < part.ndim(); ++axis) {
      same = part.shape(axis) == shape[axis];
    }
    if (!same) throw py::value_error("stack_rows: parts differ in dtype or trailing shape");
    if (!(part.flags() & py::array::c_style)) {
      throw py::value_error("stack_rows: parts must be C-contiguous");
    }
    sources.push_back({static_cast<const std::byte*>(part.data()),
                       static_cast<std::size_t>(part.shape(0) * row_bytes)});
    filled += part.shape(0);
    keep_alive.push_back(std::move(part));
  }
  if (filled > rows) throw py::value_error("stack_rows: more rows than the bucket holds");

  auto block = std::make_unique<missile::StagingBlock>(static_cast<std::size_t>(rows * row_bytes));
  {
    py::gil_scoped_release release;
    std::size_t offset = 0;
    for (const Part& part : sources) {
      block->Write(offset, part.data, part.size_bytes);
      offset += part.size_bytes;
    }
    block->ZeroFrom(offset);
  }
  shape[0] = rows;
  return ArrayOf(std::move(block), first.dtype(), shape);
}

py::array StagingLike(const py::array& array) {
  return ArrayOf(std::make_unique<missile::StagingBlock>(static_cast<std::size_t>(array.nbytes())),
                 array.dtype(), {array.shape(), array.shape() + array.ndim()});
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native parts of missile_jax.";
  m.attr("__version__") = MISSILE_VERSION;
  m.attr("STAGING_ALIGNMENT") = missile::kStagingAlignment;
  m.def("stack_rows", &StackRows, py::arg("parts"), py::arg("rows"),
        "Stack C-contiguous arrays [n_i, ...] of one dtype and trailing shape into a new 64-byte "
        "aligned array [rows, ...], zeros behind the last part. The copy runs without the GIL. "
        "Raises ValueError if the parts do not fit together or hold more than `rows` rows.");
  m.def("staging_like", &StagingLike, py::arg("array"),
        "A new 64-byte aligned array of the shape and dtype of `array`, with any bytes in it.");
  m.def(
      "keep_freed_memory", &missile::KeepFreedMemory,
      "Let the C heap keep what is freed, so that large buffers bring no page faults when they are "
      "taken again. Returns whether the allocator listened (glibc does).");
  m.def("staging_blocks", &missile::LiveStagingBlocks, "Staging blocks alive.");
  m.def("staging_bytes", &missile::LiveStagingBytes, "Bytes held by staging blocks alive.");
  missile::BindCuda(m);
  missile::BindArena(m);
  missile::BindGranules(m);
  missile::BindLink(m);
  missile::BindCudaProber(m);
  missile::BindMemsim(m);
  missile::BindArbiter(m);
}
