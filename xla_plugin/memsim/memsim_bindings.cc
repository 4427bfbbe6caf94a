// Python bindings of the memory-system simulator.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../src/bindings.h"
#include "address_map.h"
#include "memory.h"
#include "prober.h"
#include "streams.h"

namespace py = pybind11;

namespace missile {
namespace {

using memsim::AddressMap;
using memsim::Memory;
using memsim::Noise;
using memsim::PermutedChannels;
using memsim::Prober;
using memsim::Stream;
using memsim::StreamResult;
using memsim::TableChannels;
using memsim::Timing;
using memsim::XorChannels;
using Masks = std::vector<std::uint64_t>;
using Addresses = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>;

// Each keyword is one of the fields.
Timing MakeTiming(const py::kwargs& fields) {
  Timing timing;
  const std::pair<const char*, std::int64_t*> times[] = {
      {"l2_ps", &timing.l2_ps},
      {"miss_ps", &timing.miss_ps},
      {"slice_ps", &timing.slice_ps},
      {"burst_ps", &timing.burst_ps},
      {"cas_ps", &timing.cas_ps},
      {"activate_ps", &timing.activate_ps},
      {"precharge_ps", &timing.precharge_ps},
      {"row_cycle_ps", &timing.row_cycle_ps},
      {"refresh_interval_ps", &timing.refresh_interval_ps},
      {"refresh_ps", &timing.refresh_ps},
  };
  for (const auto& [key, value] : fields) {
    const auto name = py::cast<std::string>(key);
    bool known = name == "l2_lines" || name == "l2_ways";
    if (name == "l2_lines") timing.l2_lines = py::cast<std::uint32_t>(value);
    if (name == "l2_ways") timing.l2_ways = py::cast<std::uint32_t>(value);
    for (const auto& [field, time] : times) {
      if (name != field) continue;
      *time = py::cast<std::int64_t>(value);
      known = true;
    }
    if (!known) throw py::type_error("a memory's timing has no " + name);
  }
  return timing;
}

Stream MakeStream(const AddressMap& map, const Addresses& addresses, std::uint32_t width,
                  std::uint32_t in_flight, std::int64_t gap_ps, std::uint64_t accesses,
                  std::int64_t start_ps, bool bypass_l2) {
  Stream stream{{}, width, in_flight, gap_ps, accesses, start_ps, bypass_l2};
  stream.places.reserve(static_cast<std::size_t>(addresses.size()));
  for (py::ssize_t i = 0; i < addresses.size(); ++i) {
    stream.places.push_back(map.Locate(addresses.data()[i]));
  }
  return stream;
}

template <typename Place>
Addresses PerAddress(const Addresses& addresses, const Place& place) {
  Addresses result(addresses.size());
  for (py::ssize_t i = 0; i < addresses.size(); ++i) {
    result.mutable_data()[i] = place(addresses.data()[i]);
  }
  return result;
}

void BindMap(py::module_& m) {
  py::class_<AddressMap>(m, "AddressMap", "Where physical addresses lie in a simulated memory.")
      .def_static(
          "xor",
          [](std::uint64_t granule_bytes, Masks masks, Masks bank_masks, int row_shift,
             std::uint32_t slices) {
            return AddressMap(granule_bytes, XorChannels{std::move(masks)}, std::move(bank_masks),
                              row_shift, slices);
          },
          py::arg("granule_bytes"), py::arg("masks"), py::kw_only(), py::arg("bank_masks"),
          py::arg("row_shift"), py::arg("slices_per_channel") = 1)
      .def_static(
          "permuted",
          [](std::uint64_t granule_bytes, std::uint32_t channels, Masks index_masks,
             std::vector<std::vector<std::uint32_t>> permutations, Masks bank_masks, int row_shift,
             std::uint32_t slices) {
            return AddressMap(
                granule_bytes,
                PermutedChannels{channels, std::move(index_masks), std::move(permutations)},
                std::move(bank_masks), row_shift, slices);
          },
          py::arg("granule_bytes"), py::arg("channels"), py::arg("index_masks"),
          py::arg("permutations"), py::kw_only(), py::arg("bank_masks"), py::arg("row_shift"),
          py::arg("slices_per_channel") = 1)
      .def_static(
          "table",
          [](std::uint64_t granule_bytes, std::uint32_t channels, const py::bytes& table,
             Masks bank_masks, int row_shift, std::uint32_t slices) {
            const std::string bytes = table;
            return AddressMap(granule_bytes, TableChannels{channels, {bytes.begin(), bytes.end()}},
                              std::move(bank_masks), row_shift, slices);
          },
          py::arg("granule_bytes"), py::arg("channels"), py::arg("table"), py::kw_only(),
          py::arg("bank_masks"), py::arg("row_shift"), py::arg("slices_per_channel") = 1)
      .def_property_readonly("channels", &AddressMap::channels)
      .def_property_readonly("banks", &AddressMap::banks)
      .def(
          "channels_of",
          [](const AddressMap& map, const Addresses& addresses) {
            return PerAddress(addresses, [&](std::uint64_t a) { return map.ChannelOf(a); });
          },
          py::arg("addresses"), "Of physical addresses.")
      .def(
          "banks_of",
          [](const AddressMap& map, const Addresses& addresses) {
            return PerAddress(addresses, [&](std::uint64_t a) { return map.Locate(a).bank; });
          },
          py::arg("addresses"), "Of physical addresses, counted over all channels.");
}

struct Simulator {
  Simulator(AddressMap address_map, const Timing& timing)
      : map(std::move(address_map)), memory(map, timing) {}
  AddressMap map;
  Memory memory;
};

void BindRuns(py::module_& m) {
  py::class_<Timing>(m, "MemoryTiming", "Times of a simulated memory, in picoseconds.")
      .def(py::init(&MakeTiming));
  py::class_<Stream>(m, "AccessStream",
                     "Physical addresses [n] gone round by `in_flight` warps, each of which issues "
                     "`width` accesses, waits for the slowest, then computes for `gap_ps`. Ends "
                     "after `accesses`; with 0, when the others have.");
  py::class_<StreamResult>(m, "StreamResult")
      .def_readonly("accesses", &StreamResult::accesses)
      .def_readonly("done_ps", &StreamResult::done_ps)
      .def_readonly("latency_max_ps", &StreamResult::latency_max_ps)
      .def_property_readonly("latency_mean_ps", [](const StreamResult& result) {
        return result.accesses == 0 ? 0.0
                                    : result.latency_sum_ps / static_cast<double>(result.accesses);
      });
  py::class_<Simulator>(m, "MemorySimulator",
                        "A simulated GPU memory: L2 slices, channels, banks and row buffers.")
      .def(py::init<AddressMap, const Timing&>(), py::arg("address_map"),
           py::arg("timing") = Timing{})
      .def(
          "stream",
          [](const Simulator& self, const Addresses& addresses, std::uint32_t width,
             std::uint32_t in_flight, std::int64_t gap_ps, std::uint64_t accesses,
             std::int64_t start_ps, bool bypass_l2) {
            return MakeStream(self.map, addresses, width, in_flight, gap_ps, accesses, start_ps,
                              bypass_l2);
          },
          py::arg("addresses"), py::kw_only(), py::arg("width") = 32, py::arg("in_flight") = 1,
          py::arg("gap_ps") = 0, py::arg("accesses") = 0, py::arg("start_ps") = 0,
          py::arg("bypass_l2") = false)
      .def(
          "run",
          [](Simulator& self, const std::vector<const Stream*>& streams) {
            const py::gil_scoped_release release;
            self.memory.Reset();
            return memsim::Run(self.memory, streams);
          },
          py::arg("streams"),
          "Run streams beside each other in an idle memory with a cold L2; a result for each. "
          "Raises ValueError if a stream has nothing to do, or none of them ends.");
}

void BindProber(py::module_& m) {
  py::class_<Prober>(m, "SimulatedProber",
                     "Timings as a program on a simulated GPU would take them, of virtual "
                     "addresses 0 ... 2 MiB * len(pages).")
      .def(py::init([](const AddressMap& map, Masks pages, double wrong, double spikes,
                       double jitter, std::uint32_t loaders, const Timing& timing,
                       std::uint64_t seed) {
             return std::make_unique<Prober>(map, timing, std::move(pages),
                                             Noise{wrong, spikes, jitter}, loaders, seed);
           }),
           py::arg("address_map"), py::arg("pages"), py::kw_only(), py::arg("wrong") = 0.0,
           py::arg("spikes") = 0.0, py::arg("jitter") = 0.0, py::arg("loaders") = 64,
           py::arg("timing") = Timing{}, py::arg("seed") = 0)
      .def_property_readonly("pages", &Prober::pages)
      .def_property_readonly("accesses", &Prober::accesses, "Simulated so far.")
      .def("pair_latency_ns", &Prober::PairLatencyNs, py::arg("first"), py::arg("second"),
           "Mean latency of going to and fro between two addresses, past the L2. Raises IndexError "
           "outside the range.")
      .def("set_throughput", &Prober::SetThroughput, py::arg("loaded"), py::arg("measured"),
           "Accesses per us of a warp over `measured` while all others stream `loaded`. Raises "
           "ValueError for more than 64 addresses, IndexError outside the range.")
      .def(
          "channels_of",
          [](const Prober& self, const Addresses& addresses) {
            return PerAddress(
                addresses, [&](std::uint64_t a) { return self.map().ChannelOf(self.Physical(a)); });
          },
          py::arg("addresses"), "The truth, to check a recovery by: no GPU tells it.");
}

}  // namespace

void BindMemsim(py::module_& m) {
  BindMap(m);
  BindRuns(m);
  BindProber(m);
}

}  // namespace missile
