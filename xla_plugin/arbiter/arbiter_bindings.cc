// Python bindings of tenants, of what an arbiter tells of them, and of its decisions.
#include <poll.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../src/bindings.h"
#include "../src/clock.h"
#include "decide.h"
#include "share.h"
#include "tenant.h"
#include "wire.h"

namespace py = pybind11;

namespace missile {
namespace {

// A tenant whose launches may overlap: what two took together counts once.
class Tenant : public arbiter::Tenant {
 public:
  using arbiter::Tenant::Tenant;

  void LeaveAfter(std::int64_t entered_ns, bool nests) {
    const std::int64_t now_ns = NowNs();
    Leave(now_ns - std::max(entered_ns, left_ns_.exchange(now_ns)), nests);
  }

 private:
  std::atomic<std::int64_t> left_ns_{0};
};

constexpr int kAnswerMs = 1000;

std::optional<std::int64_t> Enter(Tenant& tenant, std::optional<double> timeout_s, bool nests) {
  // In slices, so that Ctrl-C ends a wait.
  constexpr double kSliceNs = 1e8;
  double left_ns = timeout_s.has_value() ? *timeout_s * 1e9 : HUGE_VAL;
  if (std::isnan(left_ns)) throw py::value_error("timeout_s must be a number");
  for (;;) {
    const double slice_ns = std::clamp(left_ns, 0.0, kSliceNs);
    std::int64_t entered_ns = 0;
    {
      py::gil_scoped_release release;
      entered_ns = tenant.Enter(NowNs() + static_cast<std::int64_t>(slice_ns), nests);
    }
    if (entered_ns != 0) return entered_ns;
    left_ns -= slice_ns;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (left_ns <= 0.0) return std::nullopt;
  }
}

py::dict FiguresOf(const Tenant& tenant) {
  const arbiter::Figures& figures = tenant.page().figures;
  py::dict stats;
  stats["in_flight"] = tenant.page().in_flight.load();
  stats["wanting"] = tenant.page().wanting.load();
  stats["launches"] = figures.launches.load();
  stats["waits"] = figures.waits.load();
  stats["waited_ns"] = figures.waited_ns.load();
  stats["busy_ns"] = figures.busy_ns.load();
  stats["longest_ns"] = figures.longest_ns.load();
  return stats;
}

py::dict AsDict(const arbiter::Row& row) {
  py::dict one;
  one["pid"] = row.pid;
  one["name"] = std::string(row.name.data());
  one["latency"] = row.latency != 0;
  one["weight"] = row.weight;
  one["holds"] = row.holds != 0;
  one["in_flight"] = row.in_flight;
  one["wanting"] = row.wanting;
  one["joined_ns"] = row.joined_ns;
  one["now_ns"] = row.now_ns;
  one["held_ns"] = row.held_ns;
  one["launches"] = row.launches;
  one["waits"] = row.waits;
  one["waited_ns"] = row.waited_ns;
  one["busy_ns"] = row.busy_ns;
  one["longest_ns"] = row.longest_ns;
  one["memory_bytes"] = row.memory_bytes;
  one["memory_peak_bytes"] = row.memory_peak_bytes;
  one["memory_limit_bytes"] = row.memory_limit_bytes;
  return one;
}

std::optional<std::vector<py::dict>> ListTenants(const std::string& device) {
  arbiter::CheckDevice(device);
  const std::string path = arbiter::Folder() + "/" + device + ".sock";
  arbiter::File socket;
  {
    py::gil_scoped_release release;
    socket = arbiter::Connect(path);
  }
  if (!socket) return std::nullopt;
  const arbiter::Hello hello{arbiter::kWireMagic, arbiter::Ask::kList, NowNs()};
  std::vector<py::dict> found;
  bool whole = arbiter::Send(socket, &hello, sizeof hello);
  while (whole) {
    pollfd answer{socket.get(), POLLIN, 0};
    arbiter::Row row{};
    {
      py::gil_scoped_release release;
      whole = poll(&answer, 1, kAnswerMs) > 0 && arbiter::Receive(socket, &row, sizeof row);
    }
    if (whole && row.pid == 0) return found;
    row.name.back() = '\0';
    if (whole) found.push_back(AsDict(row));
  }
  throw std::runtime_error("arbiter: the one at " + path + " does not answer");
}

}  // namespace

void BindArbiter(py::module_& m) {
  py::class_<Tenant>(m, "Tenant",
                     "A tenant of the arbiter of `device`, which is started if none runs. Raises "
                     "ValueError for what is not allowed, RuntimeError or OSError if there is no "
                     "arbiter to be had.")
      .def(py::init([](std::string device, std::string name, bool latency, double weight,
                       std::uint32_t most_in_flight, bool idle_threads, bool yields,
                       std::string program) {
             py::gil_scoped_release release;
             return std::make_unique<Tenant>(
                 arbiter::TenantOptions{std::move(device), std::move(name), latency, weight,
                                        most_in_flight, idle_threads, yields, std::move(program)});
           }),
           py::kw_only(), py::arg("device"), py::arg("name"), py::arg("latency") = false,
           py::arg("weight") = 1.0, py::arg("most_in_flight") = 1, py::arg("idle_threads") = false,
           py::arg("yields") = false, py::arg("program") = "")
      .def("enter", &Enter, py::arg("timeout_s") = py::none(), py::kw_only(),
           py::arg("nests") = false,
           "Announce a launch; waits for its turn if it is best-effort. Returns what `leave` "
           "takes, or None if it may not go within `timeout_s`. `nests`: the host may launch "
           "within it.")
      .def("leave", &Tenant::LeaveAfter, py::arg("entered_ns"), py::kw_only(),
           py::arg("nests") = false, "The launch has left the device.")
      .def("tell_memory", &Tenant::TellMemory, py::arg("used"), py::arg("peak"), py::arg("limit"))
      .def("stats", &FiguresOf)
      .def_property_readonly("latency", &Tenant::latency)
      .def_property_readonly("connected", &Tenant::connected)
      .def_property_readonly("arbiter_pid", &Tenant::arbiter_pid);

  py::class_<arbiter::TenantView>(m, "TenantView")
      .def(py::init([](bool wants, bool busy, double weight, double vruntime_ns,
                       std::int64_t patience_end_ns) {
             return arbiter::TenantView{wants, busy, weight, vruntime_ns, patience_end_ns};
           }),
           py::kw_only(), py::arg("wants") = false, py::arg("busy") = false,
           py::arg("weight") = 1.0, py::arg("vruntime_ns") = 0.0, py::arg("patience_end_ns") = 0);
  py::class_<arbiter::Decision>(m, "Decision")
      .def_readonly("until_ns", &arbiter::Decision::until_ns)
      .def_readonly("held_back", &arbiter::Decision::held_back)
      .def_readonly("contended", &arbiter::Decision::contended)
      .def_property_readonly("holder",
                             [](const arbiter::Decision& decision) -> std::optional<int> {
                               if (decision.holder == arbiter::kNobody) return std::nullopt;
                               return decision.holder;
                             })
      .def_property_readonly("look_again_ns",
                             [](const arbiter::Decision& decision) -> std::optional<std::int64_t> {
                               if (decision.look_again_ns == arbiter::kNeverNs) return std::nullopt;
                               return decision.look_again_ns;
                             });
  m.def(
      "decide",
      [](std::int64_t now_ns, const std::vector<arbiter::TenantView>& tenants,
         std::int64_t latency_end_ns, std::int64_t settled_ns, std::optional<int> holder,
         std::int64_t held_since_ns, std::int64_t until_ns,
         std::optional<std::int64_t> idle_since_ns) {
        const int held_by = holder.value_or(arbiter::kNobody);
        if (held_by < arbiter::kNobody || held_by >= static_cast<int>(tenants.size())) {
          throw py::value_error("holder must be the index of a tenant, got " +
                                std::to_string(held_by));
        }
        return arbiter::Decide({now_ns, latency_end_ns, settled_ns, held_by, held_since_ns,
                                until_ns, idle_since_ns.value_or(arbiter::kNeverNs), tenants},
                               arbiter::Limits{});
      },
      py::arg("now_ns"), py::arg("tenants"), py::kw_only(), py::arg("latency_end_ns") = 0,
      py::arg("settled_ns") = 0, py::arg("holder") = py::none(), py::arg("held_since_ns") = 0,
      py::arg("until_ns") = 0, py::arg("idle_since_ns") = py::none(),
      "Who of these best-effort tenants may launch, with the limits that an arbiter has.");
  py::class_<arbiter::Sharer>(m, "Sharer")
      .def(py::init([](double weight) {
             arbiter::Sharer sharer;
             sharer.weight = weight;
             return sharer;
           }),
           py::arg("weight") = 1.0)
      .def_readwrite("at_work", &arbiter::Sharer::at_work)
      .def_readonly("may_launch", &arbiter::Sharer::may_launch)
      .def_readonly("vruntime_ns", &arbiter::Sharer::vruntime_ns);
  m.def("share_out", &arbiter::ShareOut, py::arg("elapsed_ns"), py::arg("sharers"),
        "Says which of these tenants, which yield, may launch.");
  m.def("arbiter_limits", [] {
    const arbiter::Limits limits;
    py::dict values;
    values["quantum_ns"] = limits.quantum_ns;
    values["grace_ns"] = limits.grace_ns;
    values["lease_ns"] = limits.lease_ns;
    values["least_patience_ns"] = limits.least_patience_ns;
    values["most_patience_ns"] = limits.most_patience_ns;
    values["claim_ns"] = limits.claim_ns;
    values["settle_ns"] = limits.settle_ns;
    values["slack_ns"] = arbiter::kSlackNs;
    return values;
  });
  m.def("check_device", &arbiter::CheckDevice, py::arg("name"),
        "Raises ValueError for a name that no device has.");
  m.def("arbiter_folder", &arbiter::Folder, "Where this user's arbiters have their sockets.");
  m.def("arbiter_tenants", &ListTenants, py::arg("device"),
        "What the arbiter of `device` tells of each tenant; None if there is no arbiter.");
}

}  // namespace missile
