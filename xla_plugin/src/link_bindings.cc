// Python bindings of the link, its scheduler and the bare copies.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "copy.h"
#include "cuda_mover.h"
#include "fair.h"
#include "keeper.h"
#include "link.h"

namespace py = pybind11;

namespace missile {
namespace {

// Each: offset in the destination, offset in the source, bytes.
using Range = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

std::byte* At(const Extent& region, std::int64_t offset, std::int64_t size, const char* what) {
  if (offset < 0 || size < 0 || static_cast<std::size_t>(offset) > region.size_bytes ||
      static_cast<std::size_t>(size) > region.size_bytes - static_cast<std::size_t>(offset)) {
    throw py::value_error(std::to_string(size) + " bytes at offset " + std::to_string(offset) +
                          " are not inside the " + what + " of " +
                          std::to_string(region.size_bytes) + " bytes");
  }
  return region.data + offset;
}

Piece MakePiece(const Extent& destination, const Extent& source, const Range& range) {
  const auto [to, from, size] = range;
  const Piece piece{At(destination, to, size, "destination"), At(source, from, size, "source"),
                    static_cast<std::size_t>(size)};
  const bool apart = piece.destination + size <= piece.source ||  //
                     piece.source + size <= piece.destination;
  if (!apart) throw py::value_error("source and destination overlap");
  return piece;
}

std::shared_ptr<Copy> SubmitMany(Flow& flow, const py::object& destination,
                                 const py::object& source, const std::vector<Range>& ranges,
                                 const py::object& on_done) {
  if (!on_done.is_none() && PyCallable_Check(on_done.ptr()) == 0) {
    throw py::type_error("on_done must be callable");
  }
  auto keeper = std::make_unique<PyKeeper>(on_done);
  const Extent to = keeper->Hold(0, destination, true);
  const Extent from = keeper->Hold(1, source, false);
  std::vector<Piece> pieces;
  pieces.reserve(ranges.size());
  for (const Range& range : ranges) pieces.push_back(MakePiece(to, from, range));
  return flow.Submit(std::move(pieces), std::move(keeper));
}

std::shared_ptr<Copy> Submit(Flow& flow, const py::object& destination,
                             std::int64_t destination_offset, const py::object& source,
                             std::int64_t source_offset, std::int64_t size_bytes,
                             const py::object& on_done) {
  const std::vector<Range> one{Range{destination_offset, source_offset, size_bytes}};
  return SubmitMany(flow, destination, source, one, on_done);
}

bool Wait(Copy& copy, std::optional<double> timeout_s) {
  // In slices, so that Ctrl-C ends a wait.
  constexpr double kSliceNs = 1e8;
  double left_ns = timeout_s.has_value() ? *timeout_s * 1e9 : HUGE_VAL;
  if (std::isnan(left_ns)) throw py::value_error("timeout_s must be a number");
  for (;;) {
    const double slice_ns = std::clamp(left_ns, 0.0, kSliceNs);
    bool ended = false;
    {
      py::gil_scoped_release release;
      ended = copy.Wait(static_cast<std::int64_t>(slice_ns));
    }
    left_ns -= slice_ns;
    if (ended) {
      copy.DropKeeper();
      return true;
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (left_ns <= 0.0) return false;
  }
}

py::object Error(const Copy& copy) {
  const std::string error = copy.error();
  return error.empty() ? py::object(py::none()) : py::object(py::str(error));
}

// Of one stream: chunks go over the bus in the order in which they are taken.
Link::MakeMover CudaMovers(const std::shared_ptr<CudaDevice>& device, std::size_t chunk_bytes,
                           Direction direction) {
  auto stream = std::make_shared<const CudaStream>(device);
  return [stream, direction, chunk_bytes] {
    return std::make_unique<CudaMover>(stream, direction, chunk_bytes);
  };
}

// A link that is closed before the interpreter goes: its threads could not get the GIL after that.
class PyLink : public Link {
 public:
  static std::shared_ptr<PyLink> Make(std::size_t chunk_bytes, int threads, bool non_temporal,
                                      double best_effort_share, double emulate_bytes_per_s,
                                      std::int64_t emulate_latency_ns, std::size_t history,
                                      int nice, const std::shared_ptr<CudaDevice>& cuda,
                                      bool to_host) {
    if (to_host && cuda == nullptr) throw py::value_error("to_host is for links with cuda");
    const LinkOptions options{chunk_bytes,
                              threads,
                              non_temporal ? Stores::kNonTemporal : Stores::kPlain,
                              best_effort_share,
                              emulate_bytes_per_s,
                              emulate_latency_ns,
                              history,
                              nice};
    auto link = cuda == nullptr
                    ? std::make_shared<PyLink>(options)
                    : std::make_shared<PyLink>(
                          options, CudaMovers(cuda, chunk_bytes,
                                              to_host ? Direction::kToHost : Direction::kToDevice));
    Live()[link.get()] = link;
    return link;
  }

  using Link::Link;
  ~PyLink() {  // NOLINT(bugprone-exception-escape): see ~PyKeeper.
    Live().erase(this);
    // Keepers need the GIL to end.
    py::gil_scoped_release release;
    Close();
  }

  static void CloseAll() {
    std::vector<std::shared_ptr<PyLink>> links;
    for (const auto& [address, link] : Live()) links.push_back(link.lock());
    py::gil_scoped_release release;
    for (const auto& link : links) {
      if (link != nullptr) link->Close();
    }
  }

 private:
  // The GIL is its mutex. Never destroyed: links may outlive static objects.
  static std::map<PyLink*, std::weak_ptr<PyLink>>& Live() {
    static auto* live = new std::map<PyLink*, std::weak_ptr<PyLink>>();
    return *live;
  }
};

py::dict Stats(const PyLink& link) {
  py::dict all;
  for (const FlowStats& flow : link.Stats()) {
    py::dict one;
    one["id"] = flow.id;
    one["latency"] = flow.latency;
    one["weight"] = flow.weight;
    one["bytes"] = flow.bytes;
    one["chunks"] = flow.chunks;
    one["copies"] = flow.copies;
    one["cancelled"] = flow.cancelled;
    one["waited_ns"] = flow.waited_ns;
    one["virtual_runtime"] = flow.virtual_runtime;
    all[py::str(flow.name)] = one;
  }
  return all;
}

py::array_t<std::int64_t> History(const PyLink& link, std::size_t most) {
  const std::vector<ChunkRecord> chunks = link.History(most);
  py::array_t<std::int64_t> rows({static_cast<py::ssize_t>(chunks.size()), py::ssize_t{3}});
  auto row = rows.mutable_unchecked<2>();
  for (py::ssize_t k = 0; k < row.shape(0); ++k) {
    const ChunkRecord& chunk = chunks[static_cast<std::size_t>(k)];
    row(k, 0) = chunk.flow;
    row(k, 1) = chunk.bytes;
    row(k, 2) = chunk.ended_ns;
  }
  return rows;
}

std::int64_t BareCopy(const py::object& destination, const py::object& source, int threads,
                      bool non_temporal) {
  PyKeeper keeper;
  const Extent to = keeper.Hold(0, destination, true);
  const Extent from = keeper.Hold(1, source, false);
  if (to.size_bytes != from.size_bytes) throw py::value_error("sizes differ");
  const auto size = static_cast<std::int64_t>(to.size_bytes);
  const Piece piece = MakePiece(to, from, {0, 0, size});
  py::gil_scoped_release release;
  return TimeCopyNs(piece.destination, piece.source, piece.size_bytes, threads,
                    non_temporal ? Stores::kNonTemporal : Stores::kPlain, 0);
}

py::dict Measure(std::size_t size_bytes, int repeats, std::size_t chunk_bytes, int max_threads) {
  std::vector<CopyRate> rates;
  {
    py::gil_scoped_release release;
    rates = MeasureCopies(size_bytes, repeats, chunk_bytes, max_threads);
  }
  py::dict all;
  for (const CopyRate& rate : rates) {
    all[py::make_tuple(rate.threads, rate.stores == Stores::kNonTemporal)] = rate.bytes_per_s;
  }
  return all;
}

void BindFairQueue(py::module_& m) {
  py::class_<FairQueue>(m, "FairQueue", "The link's scheduler alone: no threads, no clock.")
      .def(py::init<double, std::size_t>(), py::arg("best_effort_share"), py::arg("quantum_bytes"))
      .def("add", &FairQueue::Add, py::arg("weight"), py::arg("latency"))
      .def("remove", &FairQueue::Remove, py::arg("flow"))
      .def("set_weight", &FairQueue::SetWeight, py::arg("flow"), py::arg("weight"))
      .def("wake", &FairQueue::Wake, py::arg("flow"))
      .def("sleep", &FairQueue::Sleep, py::arg("flow"))
      .def("next",
           [](FairQueue& queue) -> std::optional<int> {
             const int flow = queue.Next();
             return flow == FairQueue::kNone ? std::nullopt : std::optional<int>(flow);
           })
      .def("charge", &FairQueue::Charge, py::arg("flow"), py::arg("bytes"))
      .def("virtual_runtime", &FairQueue::VirtualRuntime, py::arg("flow"));
}

void BindCopy(py::module_& m) {
  py::class_<Copy, std::shared_ptr<Copy>>(m, "Copy", "A copy asked of a flow.")
      .def("wait", &Wait, py::arg("timeout_s") = py::none(),
           "Wait without the GIL; whether the copy has ended, well or not.")
      .def("cancel", &Copy::Cancel,
           "Whether the copy will stay incomplete. Chunks that were copied stay, and the copy is "
           "done only once the chunks in flight are.")
      .def_property_readonly("done", &Copy::done)
      .def_property_readonly("error", &Error)
      .def_property_readonly("size_bytes", &Copy::size_bytes)
      .def_property_readonly("submitted_ns", [](const Copy& c) { return c.times().submitted_ns; })
      .def_property_readonly("started_ns", [](const Copy& c) { return c.times().started_ns; })
      .def_property_readonly("ended_ns", [](const Copy& c) { return c.times().ended_ns; })
      .def_property_readonly("waited_chunks",
                             [](const Copy& c) { return c.times().waited_chunks; });
}

void BindFlow(py::module_& m) {
  py::class_<Flow, std::shared_ptr<Flow>>(m, "Flow", "A tenant's way onto a link.")
      .def_property_readonly("id", &Flow::id)
      .def_property_readonly("name", &Flow::name)
      .def_property_readonly("latency", &Flow::latency)
      .def_property("weight", &Flow::Weight, &Flow::SetWeight)
      .def("copy", &Submit, py::arg("destination"), py::arg("destination_offset"),
           py::arg("source"), py::arg("source_offset"), py::arg("size_bytes"),
           py::arg("on_done") = py::none(),
           "Ask for a copy. Destination and source: contiguous objects with the buffer protocol, "
           "or (address, owner). Both are held until the copy is done; then on_done(copy) is "
           "called once, on a thread of the link.")
      .def("copy_many", &SubmitMany, py::arg("destination"), py::arg("source"), py::arg("ranges"),
           py::arg("on_done") = py::none(),
           "One copy of several (destination_offset, source_offset, size_bytes), in order.")
      .def("close", &Flow::Close, "Fail the copies that still wait.");
}

}  // namespace

void BindLink(py::module_& m) {
  BindFairQueue(m);
  BindCopy(m);
  BindFlow(m);
  py::class_<PyLink, std::shared_ptr<PyLink>>(
      m, "Link",
      "A copy engine that flows share by weight, chunk by chunk. With `cuda`, a CudaDevice, its "
      "destinations are addresses on that device, or its sources are if `to_host`; the other side "
      "is the host's, best in pinned memory.")
      .def(py::init(&PyLink::Make), py::kw_only(), py::arg("chunk_bytes") = 1 << 20,
           py::arg("threads") = 1, py::arg("non_temporal") = false,
           py::arg("best_effort_share") = 0.1, py::arg("emulate_bytes_per_s") = 0.0,
           py::arg("emulate_latency_ns") = 0, py::arg("history") = 0, py::arg("nice") = 0,
           py::arg("cuda") = py::none(), py::arg("to_host") = false)
      .def(
          "flow",
          [](PyLink& link, const std::string& name, double weight, bool latency) {
            return link.AddFlow(name, weight, latency);
          },
          py::arg("name"), py::arg("weight") = 1.0, py::arg("latency") = false,
          py::keep_alive<0, 1>(), "Open a flow. It keeps the link open.")
      .def("stats", &Stats, "For each open flow, by name.")
      .def("history", &History, py::arg("most"),
           "The last chunks, oldest first: int64 [n, 3] of flow id, bytes, end in ns.")
      .def("close", &PyLink::Close, py::call_guard<py::gil_scoped_release>(),
           "Fail what waits, let chunks in flight end, end the threads.")
      .def_property_readonly("threads", [](const PyLink& link) { return link.options().threads; })
      .def_property_readonly(
          "non_temporal",
          [](const PyLink& link) { return link.options().stores == Stores::kNonTemporal; })
      .def_property_readonly("chunk_bytes",
                             [](const PyLink& link) { return link.options().chunk_bytes; });
  m.def("streaming_stores", &StreamingStores,
        "The instructions behind non_temporal: \"avx512f\", \"avx2\" or \"none\".");
  m.def("bare_copy_ns", &BareCopy, py::arg("destination"), py::arg("source"),
        py::arg("threads") = 1, py::arg("non_temporal") = false,
        "Copy everything without a link; the time it took once the threads were there.");
  m.def("measure_copies", &Measure, py::arg("size_bytes"), py::arg("repeats"),
        py::arg("chunk_bytes") = 0, py::arg("max_threads") = 2,
        "Bytes a second of (threads, non_temporal), the median of `repeats` turns.");
  py::module_::import("atexit").attr("register")(py::cpp_function(&PyLink::CloseAll));
}

}  // namespace missile
