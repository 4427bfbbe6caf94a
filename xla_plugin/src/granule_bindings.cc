// Python bindings of memory by channel: the pool of granules of an arena.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "granules.h"

namespace py = pybind11;

namespace missile {
namespace {

using Colours = py::array_t<std::uint8_t, py::array::c_style>;

std::uint64_t AtLeastZero(std::int64_t value, const char* what) {
  if (value < 0) {
    throw py::value_error(std::string("granules: ") + what + " is " + std::to_string(value) +
                          ", and must not be negative");
  }
  return static_cast<std::uint64_t>(value);
}

Channels AllChannels(std::uint32_t count) {
  Channels all;
  for (std::uint32_t channel = 0; channel < count; ++channel) {
    all.push_back(static_cast<std::uint8_t>(channel));
  }
  return all;
}

Channels ChannelsOf(const GranulePool& pool, const std::optional<std::vector<int>>& named) {
  if (!named.has_value()) return AllChannels(pool.map().channels());
  Channels channels;
  for (const int channel : *named) {
    if (channel < 0 || channel > 255) {
      throw py::value_error("granules: channel " + std::to_string(channel) +
                            " was named; channels are ascending and below " +
                            std::to_string(pool.map().channels()));
    }
    channels.push_back(static_cast<std::uint8_t>(channel));
  }
  return channels;
}

std::shared_ptr<GranulePool> MakePool(const std::shared_ptr<Arena>& arena, const Colours& colours,
                                      std::int64_t granule_bytes, std::int64_t channels) {
  if (colours.ndim() != 2) {
    throw py::value_error("granules: colours have " + std::to_string(colours.ndim()) +
                          " axes, and must have two: [pages, granules of a page]");
  }
  const std::uint64_t count = AtLeastZero(channels, "channels");
  auto map = std::make_shared<ChannelMap>(
      colours.data(), static_cast<std::size_t>(colours.shape(0)),
      static_cast<std::size_t>(colours.shape(1)), AtLeastZero(granule_bytes, "granule_bytes"),
      static_cast<std::uint32_t>(std::min<std::uint64_t>(count, 1U << 20)));
  return std::make_shared<GranulePool>(arena, std::move(map));
}

// A move may take long: until it is over other Python threads run.
void Pin(Granules& granules) {
  if (granules.moving()) {
    py::gil_scoped_release release;
    granules.WaitForMove();
  }
  granules.Pin();
}

py::array_t<std::int32_t> TableOf(const Granules& granules) {
  const std::vector<std::uint32_t> table = granules.table();
  py::array_t<std::int32_t> made(static_cast<py::ssize_t>(table.size()));
  std::memcpy(made.mutable_data(), table.data(), table.size() * sizeof(std::uint32_t));
  return made;
}

const char* NameOf(BlockState state) {
  if (state == BlockState::kLive) return "live";
  return state == BlockState::kWaiting ? "waiting" : "free";
}

py::dict StatsDict(const GranulePool& pool) {
  GranuleStats stats = pool.Stats();
  py::dict made;
  made["pages"] = stats.pages;
  made["used_granules"] = std::move(stats.used);
  made["free_granules"] = std::move(stats.free);
  made["requested_bytes"] = stats.requested_bytes;
  made["live"] = stats.live;
  made["waiting"] = stats.waiting;
  made["pins"] = stats.pins;
  made["allocations"] = stats.allocations;
  made["failures"] = stats.failures;
  made["moved_granules"] = stats.moved_granules;
  made["pages_taken"] = stats.pages_taken;
  return made;
}

void BindOwner(py::module_& m) {
  py::class_<Granules>(m, "Granules",
                       "Granules of an arena, of chosen channels. Dropping the object releases "
                       "them. Raises ValueError where their state does not allow a call.")
      .def_property_readonly("size_bytes", &Granules::size_bytes, "Bytes asked for.")
      .def_property_readonly(
          "table", &TableOf,
          "[granules] int32, in the order of the bytes: each one's offset in the arena, in "
          "granules. A copy, which stays true while they are pinned.")
      .def_property_readonly("version", &Granules::version,
                             "Changes with the table, and only with it.")
      .def_property_readonly(
          "channels",
          [](const Granules& granules) {
            const Channels channels = granules.channels();
            return py::tuple(py::cast(std::vector<int>(channels.begin(), channels.end())));
          })
      .def_property_readonly(
          "state", [](const Granules& granules) { return NameOf(granules.state()); },
          "'live'; 'waiting': released, and not reusable yet; or 'free'.")
      .def("pin", &Pin, "Count a launch or a copy that uses them. They must be live.")
      .def("unpin", &Granules::Unpin, "The launch or copy is complete.")
      .def("release", &Granules::Release, "Give them back. They are reused once there is no pin.");
}

}  // namespace

void BindGranules(py::module_& m) {
  BindOwner(m);
  py::class_<GranulePool, std::shared_ptr<GranulePool>>(
      m, "GranulePool",
      "Memory by channel. colours: [pages, granules of a page] uint8, the channel of each granule "
      "of "
      "each whole 2 MiB page of the arena. Pages are taken from the arena as they are needed and "
      "go back when they are empty. Raises ValueError for a map that does not fit.")
      .def(py::init(&MakePool), py::arg("arena"), py::arg("colours"), py::arg("granule_bytes"),
           py::arg("channels"))
      .def_property_readonly("granule_bytes",
                             [](const GranulePool& pool) { return pool.map().granule_bytes(); })
      .def_property_readonly("channels",
                             [](const GranulePool& pool) { return pool.map().channels(); })
      .def(
          "allocate",
          [](GranulePool& pool, std::int64_t size_bytes,
             const std::optional<std::vector<int>>& channels) {
            return pool.Allocate(AtLeastZero(size_bytes, "size_bytes"), ChannelsOf(pool, channels));
          },
          py::arg("size_bytes"), py::arg("channels") = py::none(),
          "Granules of `channels`, all if it is None, in turns; or None if the arena has no page "
          "for what is missing.")
      .def(
          "make_room",
          [](GranulePool& pool, std::int64_t size_bytes,
             const std::optional<std::vector<int>>& named, std::uint64_t most_bytes) {
            const std::uint64_t size = AtLeastZero(size_bytes, "size_bytes");
            const Channels channels = ChannelsOf(pool, named);
            py::gil_scoped_release release;
            return pool.MakeRoom(size, channels, most_bytes);
          },
          py::arg("size_bytes"), py::arg("channels") = py::none(),
          py::arg("most_bytes") = std::numeric_limits<std::uint64_t>::max(),
          "Move blocks of the arena until it has the pages that `allocate` needs, for each of them "
          "at most `most_bytes`. Return whether it has them.")
      .def(
          "recolour",
          [](GranulePool& pool, const Granules& granules,
             const std::optional<std::vector<int>>& named) {
            const Channels channels = ChannelsOf(pool, named);
            py::gil_scoped_release release;
            return pool.Recolour(granules, channels);
          },
          py::arg("granules"), py::arg("channels"),
          "Move what lies elsewhere into `channels`, and even out what each of them has. Return "
          "False, with nothing changed, if they are in use or the arena has no page for it.")
      .def("gather", &GranulePool::Gather, py::call_guard<py::gil_scoped_release>(),
           "Empty pages into others, as long as one fewer will do. Return how many went back to "
           "the arena.")
      .def("stats", &StatsDict,
           "Counts. used_granules, free_granules: [channels], of the pages that are here.")
      .def("check", &GranulePool::Check, py::call_guard<py::gil_scoped_release>(),
           "Raise RuntimeError if what the pool knows contradicts itself, the map or the arena.");
}

}  // namespace missile
