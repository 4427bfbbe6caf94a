#include "launch.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../src/clock.h"
#include "arguments.h"
#include "buffers.h"
#include "errors.h"
#include "gate.h"
#include "programs.h"
#include "statistics.h"
#include "tenant.h"
#include "wrapped.h"

namespace missile::pjrt {
namespace {

std::atomic<std::uint64_t> last_launch{0};
// The share of a new duration in what is expected of the next.
constexpr std::int64_t kSmoothing = 4;

// From before the plugin is called until all devices have done its work. Ends itself.
class Launch {
 public:
  Launch(std::shared_ptr<LoadedProgram> program, std::size_t num_devices, bool host_callback)
      : program_(std::move(program)), own_events_(num_devices) {
    info_.launch = ++last_launch;
    info_.executable = program_->number;
    info_.devices = static_cast<int>(num_devices);
    info_.expected_ns = program_->expected_ns.load(std::memory_order_relaxed);
    info_.host_callback = host_callback;
    Count(statistics.launches_made);
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // Its device's account has been charged for it.
  void Charged(const std::shared_ptr<TenantDevice>& device) { charged_.push_back(device); }
  void Hold(Placement* placement) {
    placement->Hold();
    placements_.push_back(placement);
  }
  bool Enter() {
    Tenant& tenant = *program_->tenant;
    entered_ = tenant.gate().Enter(info_, tenant.Deadline());
    started_ns_ = NowNs();
    return entered_;
  }
  Event** own_events() { return own_events_.data(); }

  // The plugin was called: `events` tell the ends of its devices' work.
  void Follow(Event** events) {
    const std::size_t count = own_events_.size();
    left_.store(count + 1, std::memory_order_relaxed);
    std::size_t ended = 1;  // The one that kept it until all are asked.
    for (std::size_t i = 0; i < count; ++i) {
      Question<Slot::kEventOnReady> ready;
      ready.event = events[i];
      ready.callback = [](Error* error, void* user) {
        wrapped->Drop(error);
        static_cast<Launch*>(user)->EndSome(1);
      };
      ready.user = this;
      if (events[i] == nullptr || !Ask(&ready)) ++ended;
    }
    EndSome(ended);
  }

  // It did not start.
  void Fail() { End(0); }

 private:
  ~Launch() {
    for (Placement* placement : placements_) placement->Drop();
    Count(statistics.launches_ended);
  }

  void EndSome(std::size_t some) {
    if (left_.fetch_sub(some, std::memory_order_acq_rel) != some) return;
    const std::int64_t device_ns = program_->tenant->DeviceNs(started_ns_, NowNs());
    const std::int64_t before_ns = program_->expected_ns.load(std::memory_order_relaxed);
    program_->expected_ns.store(
        before_ns == 0 ? device_ns : before_ns + (device_ns - before_ns) / kSmoothing,
        std::memory_order_relaxed);
    End(device_ns);
  }

  void End(std::int64_t device_ns) {
    for (const auto& device : charged_) {
      device->account.EndLaunch(program_->temporary_bytes, info_.host_callback);
    }
    Gate& gate = program_->tenant->gate();
    if (entered_) gate.Leave(info_, device_ns);
    if (!charged_.empty()) {
      const AccountStats stats = charged_.front()->account.Stats();
      gate.TellMemory(stats.used_bytes, stats.peak_bytes, stats.limit_bytes);
    }
    for (Event* event : own_events_) {
      if (event == nullptr) continue;
      Question<Slot::kEventDestroy> destroy;
      destroy.event = event;
      Ask(&destroy);
    }
    delete this;
  }

  const std::shared_ptr<LoadedProgram> program_;
  LaunchInfo info_;
  bool entered_ = false;
  std::int64_t started_ns_ = 0;
  std::vector<std::shared_ptr<TenantDevice>> charged_;
  std::vector<Placement*> placements_;
  std::vector<Event*> own_events_;
  std::atomic<std::size_t> left_{0};
};

// What becomes of a launch's arguments.
struct Taken {
  std::vector<std::int64_t> kept;  // Views that the program would take: it gets none of them.
  std::vector<std::uint64_t> returned_bytes;  // [device] Of arguments that become results.
};

bool Contains(const std::vector<std::int64_t>& sorted, std::int64_t number) {
  return std::binary_search(sorted.begin(), sorted.end(), number);
}

bool CallerKeeps(const ExecuteArgs& args, std::int64_t argument) {
  const std::int64_t* first = args.options->non_donatable;
  const std::int64_t* end = first + args.options->num_non_donatable;
  return std::find(first, end, argument) != end;
}

// Holds the placements of all arguments for the launch, and sorts out donations.
Taken TakeArguments(const ExecuteArgs& args, const LoadedProgram& program, Launch* launch) {
  Taken taken;
  taken.returned_bytes.resize(args.num_devices);
  const Donations& donations = program.donations;
  AllBuffers().Find([&](auto find) {
    for (std::size_t device = 0; device < args.num_devices; ++device) {
      for (std::size_t i = 0; i < args.num_arguments; ++i) {
        const BufferRecord* record = find(args.arguments[device][i]);
        if (record == nullptr) continue;
        const auto argument = static_cast<std::int64_t>(i);
        if (record->placement != nullptr) {
          launch->Hold(record->placement);
          if ((!program.donations_known || Contains(donations.all, argument)) &&
              !CallerKeeps(args, argument)) {
            taken.kept.push_back(argument);
          }
        } else if (Contains(donations.aliased, argument) && !CallerKeeps(args, argument)) {
          taken.returned_bytes[device] += record->bytes;
        }
      }
    }
  });
  std::sort(taken.kept.begin(), taken.kept.end());
  taken.kept.erase(std::unique(taken.kept.begin(), taken.kept.end()), taken.kept.end());
  return taken;
}

std::shared_ptr<TenantDevice> DeviceOf(const ExecuteArgs& args, const LoadedProgram& program,
                                       std::size_t index) {
  if (args.device != nullptr) return FindDevice(args.device);
  return index < program.devices.size() ? program.devices[index] : nullptr;
}

// The plugin took the memory of what was donated. A view that was kept from it is deleted as the
// caller expects it to be.
void EndDonated(const ExecuteArgs& args, const LoadedProgram& program, const Taken& taken) {
  for (std::int64_t argument : program.donations.all) {
    const auto i = static_cast<std::size_t>(argument);
    if (i >= args.num_arguments || CallerKeeps(args, argument)) continue;
    const bool kept = Contains(taken.kept, argument);
    for (std::size_t device = 0; device < args.num_devices; ++device) {
      Buffer* buffer = args.arguments[device][i];
      if (kept) {
        Question<Slot::kBufferDelete> drop;
        drop.buffer = buffer;
        Ask(&drop);
      }
      AllBuffers().Release(buffer);
    }
  }
  if (program.donations_known) {
    Count(statistics.views_kept_from_donation, static_cast<std::int64_t>(taken.kept.size()));
  }
}

// What results take of a device is the same at each launch.
std::vector<OutputSize> OutputSizes(LoadedProgram* program, const TenantDevice& device,
                                    Buffer* const* outputs) {
  std::lock_guard lock(program->mutex);
  if (program->outputs.empty()) {
    program->outputs.resize(program->num_outputs);
    for (std::size_t i = 0; i < program->num_outputs; ++i) {
      Question<Slot::kBufferMemory> memory;
      memory.buffer = outputs[i];
      const bool on_device = !Ask(&memory) || memory.memory == device.memory;
      program->outputs[i] = {on_device, on_device ? DeviceBytes(outputs[i]) : 0};
    }
  }
  return program->outputs;
}

// `charged_bytes` were taken for all results of the device.
void AddOutputs(LoadedProgram* program, const std::shared_ptr<TenantDevice>& device,
                Buffer* const* outputs, std::uint64_t charged_bytes) {
  const std::vector<OutputSize> sizes = OutputSizes(program, *device, outputs);
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    bytes += sizes[i].bytes;
    if (sizes[i].on_device) AllBuffers().Add(outputs[i], {device, sizes[i].bytes, nullptr});
  }
  device->account.Adjust(charged_bytes, bytes);
}

std::uint64_t ExpectedOutputBytes(LoadedProgram* program) {
  std::lock_guard lock(program->mutex);
  if (program->outputs.empty()) return program->output_bytes;
  std::uint64_t bytes = 0;
  for (const OutputSize& output : program->outputs) bytes += output.bytes;
  return bytes;
}

Error* Execute(ExecuteArgs* args) {
  std::shared_ptr<LoadedProgram> program = FindProgram(args->loaded);
  if (program == nullptr) return wrapped->Call<Slot::kLoadedExecutableExecute>(args);
  Count(statistics.launches);
  const bool host_callback =
      program->host_callback || args->options->num_send_ops > 0 || args->options->num_recv_ops > 0;
  auto* launch = new Launch(program, args->num_devices, host_callback);
  const Taken taken = TakeArguments(*args, *program, launch);

  const std::uint64_t output_bytes = ExpectedOutputBytes(program.get());
  std::vector<std::shared_ptr<TenantDevice>> charged;
  auto give_back = [&] {
    for (const auto& device : charged) {
      if (device != nullptr) device->account.Release(output_bytes);
    }
    launch->Fail();
  };
  for (std::size_t i = 0; i < args->num_devices; ++i) {
    std::shared_ptr<TenantDevice> device = DeviceOf(*args, *program, i);
    charged.push_back(device);
    if (device == nullptr) continue;
    if (!device->account.ChargeLaunch(output_bytes, program->temporary_bytes,
                                      taken.returned_bytes[i], host_callback)) {
      charged.pop_back();
      Count(statistics.launches_refused_memory);
      Error* refused =
          MakeError(Code::kResourceExhausted,
                    device->account.Refusal("a launch's results (" + std::to_string(output_bytes) +
                                                ") and temporaries (" +
                                                std::to_string(program->temporary_bytes) + ")",
                                            output_bytes + program->temporary_bytes));
      give_back();
      return refused;
    }
    launch->Charged(device);
  }
  if (!launch->Enter()) {
    Count(statistics.launches_refused_late);
    give_back();
    return MakeError(Code::kDeadlineExceeded,
                     "a launch of tenant '" + program->tenant->options().tenant +
                         "' had no turn within the " +
                         std::to_string(program->tenant->options().timeout_s) +
                         " s that MISSILE_PJRT_TIMEOUT_S allows");
  }

  LaunchArguments changed(args);
  changed.KeepFromDonation(taken.kept);
  if (args->complete == nullptr) changed.AskForEvents(launch->own_events());
  Error* error = wrapped->Call<Slot::kLoadedExecutableExecute>(changed.get());
  if (error != nullptr) {
    give_back();
    return error;
  }
  EndDonated(*args, *program, taken);
  for (std::size_t i = 0; i < args->num_devices; ++i) {
    if (charged[i] != nullptr) {
      AddOutputs(program.get(), charged[i], args->outputs[i], output_bytes);
    }
  }
  launch->Follow(args->complete != nullptr ? args->complete : launch->own_events());
  return nullptr;
}

}  // namespace

void OverrideLaunches(Table* table) { table->Override<Slot::kLoadedExecutableExecute>(Execute); }

}  // namespace missile::pjrt
