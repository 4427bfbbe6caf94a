// Python bindings of the arena, its blocks and their views.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arena.h"
#include "bindings.h"
#include "cuda_region.h"
#include "view_set.h"

namespace py = pybind11;

namespace missile {
namespace {

constexpr const char* kTensor = "dltensor";

std::uint64_t NotNegative(std::int64_t value, const char* what) {
  if (value < 0) {
    throw py::value_error(std::string(what) + " is " + std::to_string(value) +
                          ", and must not be negative");
  }
  return static_cast<std::uint64_t>(value);
}

DLDataType DataTypeOf(const py::dtype& dtype) {
  auto bits = static_cast<std::uint8_t>(dtype.itemsize() * 8);
  bool native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
  if (native && dtype.itemsize() <= 16) {
    switch (dtype.kind()) {
      case 'b':
        return {kDLBool, bits, 1};
      case 'i':
        return {kDLInt, bits, 1};
      case 'u':
        return {kDLUInt, bits, 1};
      case 'c':
        return {kDLComplex, bits, 1};
      case 'f':
        if (bits >= 16 && bits <= 64) return {kDLFloat, bits, 1};
        break;
      default:  // numpy does not know bfloat16; ml_dtypes adds it.
        if (dtype.attr("name").cast<std::string>() == "bfloat16") return {kDLBfloat, bits, 1};
    }
  }
  throw py::value_error("dtype " + py::str(dtype).cast<std::string>() +
                        " can not be viewed: it must be bool, an integer, float16, bfloat16, "
                        "float32, float64, complex64 or complex128 in this machine's byte order");
}

using Entry = std::tuple<std::int64_t, std::vector<std::int64_t>, py::object>;

std::shared_ptr<ViewLayout> MakeLayout(const std::vector<Entry>& entries) {
  std::vector<ViewEntry> made;
  made.reserve(entries.size());
  for (const auto& [offset_bytes, shape, dtype] : entries) {
    made.push_back({NotNegative(offset_bytes, "offset_bytes"), shape,
                    DataTypeOf(py::dtype::from_args(dtype))});
  }
  return std::make_shared<ViewLayout>(std::move(made));
}

std::shared_ptr<Arena> MakeArena(std::int64_t size_bytes, std::int64_t alignment, bool prefault,
                                 bool huge_pages) {
  std::uint64_t size = NotNegative(size_bytes, "size_bytes");
  std::uint64_t align = NotNegative(alignment, "alignment");
  py::gil_scoped_release release;
  return std::make_shared<Arena>(size, align, prefault, huge_pages);
}

std::shared_ptr<Arena> MakeCudaArena(const std::shared_ptr<CudaDevice>& device,
                                     std::int64_t size_bytes, std::int64_t alignment) {
  const std::uint64_t align = NotNegative(alignment, "alignment");
  const std::uint64_t size = Arena::RegionBytes(NotNegative(size_bytes, "size_bytes"), align);
  py::gil_scoped_release release;
  return std::make_shared<Arena>(std::make_unique<CudaRegion>(device, size), align);
}

std::shared_ptr<Arena> MakePinnedArena(const std::shared_ptr<CudaDevice>& device,
                                       std::int64_t size_bytes, std::int64_t alignment) {
  const std::uint64_t align = NotNegative(alignment, "alignment");
  const std::uint64_t size = Arena::RegionBytes(NotNegative(size_bytes, "size_bytes"), align);
  py::gil_scoped_release release;
  return std::make_shared<Arena>(std::make_unique<PinnedRegion>(device, size), align);
}

// A move may take long: until it is over other Python threads run.
void WaitForMove(const Block& block) {
  if (!block.moving()) return;
  py::gil_scoped_release release;
  block.WaitForMove();
}

// Whoever takes the tensor out of the capsule renames it; until then the capsule owns the view.
void DropTensor(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kTensor) == 0) return;
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kTensor));
  managed->deleter(managed);
}

// What was made of the views of a set.
struct Views {
  ViewSet set;
  py::list made;

  bool Park() {
    // Whoever holds what was made of a view could read what comes to lie there.
    for (py::handle one : made) {
      if (one.ref_count() != 1) return false;
    }
    return set.Park();
  }

  bool Attach(const Block& block);
};

// Straight C API: this runs for each leaf of a model each time that the model is swapped in.
std::unique_ptr<Views> MakeViews(Block& block, const std::shared_ptr<ViewLayout>& layout,
                                 const py::object& make) {
  WaitForMove(block);
  ViewList views = block.MakeViews(layout);
  std::size_t count = layout->entries().size();
  std::unique_ptr<Views> made(new Views{{block, layout, views}, py::list(count)});
  for (std::size_t index = 0; index < count; ++index) {
    auto capsule = py::reinterpret_steal<py::object>(
        PyCapsule_New(&views.first()->managed, kTensor, DropTensor));
    if (!capsule) throw py::error_already_set();
    views.Take();
    PyObject* result = PyObject_CallOneArg(make.ptr(), capsule.ptr());
    if (result == nullptr) throw py::error_already_set();
    PyList_SET_ITEM(made->made.ptr(), static_cast<py::ssize_t>(index), result);
  }
  return made;
}

bool Views::Attach(const Block& block) {
  WaitForMove(block);
  return set.Attach(block);
}

py::array MakeArray(Block& block, std::int64_t offset_bytes, const std::vector<std::int64_t>& shape,
                    const py::object& dtype) {
  if (block.device().device_type != kDLCPU) {
    throw py::value_error("block: it lies on a GPU, where numpy can not reach; use views()");
  }
  py::dtype type = py::dtype::from_args(dtype);
  std::uint64_t size_bytes = TensorBytes(shape, DataTypeOf(type));
  WaitForMove(block);
  ViewList views = block.MakeView(NotNegative(offset_bytes, "offset_bytes"), size_bytes);
  View* view = views.first();
  py::capsule owner(view, [](void* pointer) { DropView(static_cast<View*>(pointer)); });
  views.Take();
  return py::array(type, shape, view->managed.dl_tensor.data, owner);
}

const char* NameOf(BlockState state) {
  switch (state) {
    case BlockState::kLive:
      return "live";
    case BlockState::kWaiting:
      return "waiting";
    case BlockState::kFree:
      break;
  }
  return "free";
}

double ShareMissing(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : 1.0 - static_cast<double>(part) / static_cast<double>(whole);
}

py::dict StatsDict(const Arena& arena) {
  ArenaStats stats = arena.Stats();
  py::dict made;
  made["size_bytes"] = stats.size_bytes;
  made["used_bytes"] = stats.used_bytes;
  made["requested_bytes"] = stats.requested_bytes;
  made["free_bytes"] = stats.free_bytes;
  made["largest_free_bytes"] = stats.largest_free_bytes;
  made["live_blocks"] = stats.live_blocks;
  made["waiting_blocks"] = stats.waiting_blocks;
  made["views"] = stats.views;
  made["parked_views"] = stats.parked_views;
  made["pins"] = stats.pins;
  made["allocations"] = stats.allocations;
  made["failures"] = stats.failures;
  made["moved_bytes"] = stats.moved_bytes;
  made["native_allocations"] = stats.native_allocations;
  made["fragmentation"] = ShareMissing(stats.largest_free_bytes, stats.free_bytes);
  made["internal_waste"] = ShareMissing(stats.requested_bytes, stats.used_bytes);
  return made;
}

void BindBlock(py::module_& m) {
  py::class_<Block>(m, "Block",
                    "Space in an arena. Dropping the object releases it. Raises ValueError where "
                    "its state does not allow a call.")
      .def_property_readonly(
          "address",
          [](const Block& block) { return reinterpret_cast<std::uintptr_t>(block.address()); },
          "Where the block lies. It stays there while the block has a pin or a view.")
      .def_property_readonly("offset", &Block::offset, "The same, in bytes from the arena's start.")
      .def_property_readonly("size_bytes", &Block::size_bytes, "Bytes asked for.")
      .def_property_readonly(
          "state", [](const Block& block) { return NameOf(block.state()); },
          "'live'; 'waiting': released, and its space not reusable yet; or 'free'.")
      .def(
          "pin",
          [](Block& block) {
            WaitForMove(block);
            block.Pin();
          },
          "Count a launch or a copy that uses the block. The block must be live.")
      .def("unpin", &Block::Unpin, "The launch or copy is complete.")
      .def("release", &Block::Release,
           "Give the space back. It is reused once there is no pin and no view.")
      .def(
          "views", &MakeViews, py::arg("layout"), py::arg("make"),
          "Make a view for each entry of `layout` and return [make(capsule), ...]. A capsule holds "
          "a DLPack tensor on the arena's device; the view ends with the tensor. If `make` raises, "
          "the views "
          "that nobody else holds are dropped.")
      .def("array", &MakeArray, py::arg("offset"), py::arg("shape"), py::arg("dtype"),
           "A writeable array that is a view, from `offset` bytes on.");
}

}  // namespace

void BindArena(py::module_& m) {
  py::class_<ViewLayout, std::shared_ptr<ViewLayout>>(
      m, "ViewLayout",
      "Where the tensors of a block lie: (offset_bytes, shape, dtype) of each, row-major. Raises "
      "ValueError for a dtype that has no view.")
      .def(py::init(&MakeLayout), py::arg("entries"))
      .def("__len__", [](const ViewLayout& layout) { return layout.entries().size(); });
  py::class_<Views>(m, "Views", "What was made of the views of a block, in the layout's order.")
      .def("__len__", [](const Views& views) { return views.made.size(); })
      .def("__getitem__",
           [](const Views& views, std::size_t index) -> py::object {
             if (index >= views.made.size()) throw py::index_error();
             return views.made[index];
           })
      .def("__iter__", [](const Views& views) { return py::iter(views.made); })
      .def_property_readonly(
          "offset", [](const Views& views) { return views.set.offset(); },
          "Where they lie, in bytes from the arena's start.")
      .def("park", &Views::Park,
           "Take the views off their block, which then does not wait for them: they stay as they "
           "are, for a block that will lie at the same place. Return False, and do nothing, if "
           "anybody else holds what was made of one, one has ended, or they are parked already.")
      .def("attach", &Views::Attach, py::arg("block"),
           "Let parked views count for `block` and show its bytes. Return False, and do nothing, "
           "if it lies elsewhere, one has ended, or they are not parked.");
  BindBlock(m);
  py::class_<Arena, std::shared_ptr<Arena>>(
      m, "Arena",
      "Memory that is taken from the system once and handed out in blocks. `size_bytes` is rounded "
      "up to `alignment`, a power of two from 64 to 2 MiB. Raises MemoryError if the system has "
      "not that much.")
      .def(py::init(&MakeArena), py::arg("size_bytes"), py::arg("alignment") = 64,
           py::arg("prefault") = true, py::arg("huge_pages") = true)
      .def_static("on_cuda", &MakeCudaArena, py::arg("device"), py::arg("size_bytes"),
                  py::arg("alignment") = 256,
                  "An arena of a CudaDevice's memory, of which it takes up to 3 MiB more than its "
                  "size. On a GPU a view may end before the launch that reads it has run: keep a "
                  "pin until the launch's end has been observed.")
      .def_static("pinned", &MakePinnedArena, py::arg("device"), py::arg("size_bytes"),
                  py::arg("alignment") = 256,
                  "An arena of the host's memory that a CudaDevice reads and writes by itself.")
      .def_property_readonly(
          "dlpack_device",
          [](const Arena& arena) {
            const DLDevice device = arena.device();
            return std::pair(static_cast<int>(device.device_type), device.device_id);
          },
          "DLPack's (device_type, device_id): (1, 0) on the CPU, (2, ordinal) on CUDA.")
      .def_property_readonly(
          "address",
          [](const Arena& arena) { return reinterpret_cast<std::uintptr_t>(arena.address()); })
      .def_property_readonly("size_bytes", &Arena::size_bytes)
      .def_property_readonly("alignment", &Arena::alignment)
      .def_property_readonly("free_bytes", &Arena::FreeBytes)
      .def_property_readonly("waiting_blocks", &Arena::WaitingBlocks,
                             "Blocks that are released and still in use.")
      .def("rounded", &Arena::RoundUp, py::arg("size_bytes"), "What a block of this size takes.")
      .def("contains", &Arena::Contains, py::arg("address"),
           "Whether an address lies in the arena.")
      .def(
          "allocate",
          [](Arena& arena, std::int64_t size_bytes, const Block* near,
             const std::vector<std::uint64_t>& places) {
            return arena.Allocate(NotNegative(size_bytes, "size_bytes"), near, ColourSet(), places);
          },
          py::arg("size_bytes"), py::arg("near") = py::none(),
          py::arg("places") = std::vector<std::uint64_t>(),
          "A block, or None if no hole is large enough. It starts at one of `places`, offsets that "
          "ascend, if it can; else right behind `near`, if it can.")
      .def("move", &Arena::Move, py::arg("block"), py::call_guard<py::gil_scoped_release>(),
           "Move a live block without pins and views to a lower hole. Returns whether it moved.")
      .def("make_room", &Arena::MakeRoom, py::arg("size_bytes"),
           py::arg("most_bytes") = std::numeric_limits<std::uint64_t>::max(),
           py::call_guard<py::gil_scoped_release>(),
           "Make a hole of `size_bytes` by moving the fewest bytes of live blocks without pins and "
           "views, unless those are more than `most_bytes`. Return whether there is one.")
      .def("compact", &Arena::Compact, py::call_guard<py::gil_scoped_release>(),
           "Move such blocks down until nothing moves. Returns the bytes moved.")
      .def("stats", &StatsDict,
           "Sizes and counts. `fragmentation` is the share of the free bytes that the largest hole "
           "lacks, `internal_waste` the share of the used bytes that nobody asked for.")
      .def("check", &Arena::Check, py::call_guard<py::gil_scoped_release>(),
           "Raise RuntimeError if what the arena knows contradicts itself.");
}

}  // namespace missile
