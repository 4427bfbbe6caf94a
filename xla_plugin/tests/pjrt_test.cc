// Four threads upload, launch, copy, donate and drop through the wrapper's table, over a plugin
// that reads arguments after their handles are gone. No Python: run under sanitizers by
// tests/plugin/test_plugin_native.py, which builds the plugin that argv[1] names. Exits with 0 if
// every result was right and nothing is left.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../pjrt/account.h"
#include "../pjrt/donations.h"
#include "../pjrt/gate.h"
#include "../pjrt/options.h"
#include "../pjrt/statistics.h"
#include "../src/clock.h"
#include "pjrt_buffers_test.h"
#include "pjrt_calls.h"
#include "pjrt_copies_test.h"

extern "C" const missile::pjrt::Api* GetPjrtApi();

namespace {

using namespace missile::pjrt;        // NOLINT(google-build-using-namespace)
using namespace missile::pjrt::test;  // NOLINT(google-build-using-namespace)

constexpr int kThreads = 4;
constexpr int kSteps = 1500;
constexpr int kBound = 3;

void Use(const Plugin& plugin, Client* client, LoadedExecutable* plain, LoadedExecutable* donating,
         Bytes bytes_of, unsigned seed) {
  std::mt19937 random(seed);
  for (int step = 0; step < kSteps; ++step) {
    std::vector<float> values(1 + random() % 500, static_cast<float>(seed * kSteps + step));
    Buffer* argument = Upload(plugin, client, values);
    if (random() % 3 == 0) {  // Of which nobody wants to know the end.
      Destroy(plugin, Launch(plugin, plain, argument, nullptr));
    }
    std::promise<void> end;
    const bool donated = random() % 2 != 0;
    Buffer* result = Launch(plugin, donated ? donating : plain, argument, &end);
    std::vector<float> copied(values.size());
    Event* done = donated ? nullptr : ToHost(plugin, argument, &copied);
    // The plugin still has to read it.
    Destroy(plugin, argument);
    Buffer* other = Upload(plugin, client, std::vector<float>(values.size(), -1.0F));
    end.get_future().wait();
    Require(std::memcmp(bytes_of(result), values.data(), values.size() * sizeof(float)) == 0,
            "a launch read what was uploaded after it");
    if (done != nullptr) {
      Require(Await(plugin, done).empty() && copied == values,
              "a copy read what was uploaded after it");
    }
    std::promise<void> again;
    Buffer* last = Launch(plugin, donating, result, &again);
    again.get_future().wait();
    for (Buffer* buffer : {result, other, last}) Destroy(plugin, buffer);
  }
}

void CheckNothingLeft() {
  const Statistics& s = statistics;
  Require(s.placements_made > 0 && s.views_kept_from_donation > 0, "nothing was placed");
  Require(s.placements_made == s.placements_ended, "a placement is left");
  Require(s.records_made == s.records_ended, "a record of a buffer is left");
  Require(s.launches_made == s.launches_ended, "a launch is left");
  Require(s.executables_made == s.executables_ended, "an executable is left");
  Require(s.tenants_made == s.tenants_ended, "a tenant is left");
  Require(s.managers_made > 0 && s.managers_made == s.managers_ended, "a manager is left");
  Require(s.reads_made > 0 && s.reads_made == s.reads_ended, "a copy is left");
}

void CheckCap(const Plugin& plugin) {
  Client* client = MakeClient(plugin, {{"missile_memory", "6000"}, {"missile_tenant", "small"}});
  std::vector<float> values(1000);
  Buffer* fits = Upload(plugin, client, values);
  const auto size = static_cast<std::int64_t>(values.size());
  auto upload = UploadOf(client, values.data(), &size);
  const std::string refusal = plugin.Refusal(&upload);
  Require(refusal ==
              "missile: tenant 'small' asks for 4000 bytes of device 0 for an upload; it has "
              "4000 of the 6000 that MISSILE_PJRT_MEMORY allows, 0 of them temporaries of "
              "launches in flight",
          refusal.c_str());
  Destroy(plugin, fits);
  Destroy(plugin, Upload(plugin, client, values));
  DestroyClient(plugin, client);

  Question<Slot::kClientCreate> create;
  NamedValue option{};
  option.name = "missile_weight";
  option.name_size = std::strlen(option.name);
  option.type = NamedValueType::kFloat;
  option.float_value = -1.0F;
  create.options = &option;
  create.num_options = 1;
  Require(plugin.Refusal(&create).find("option WEIGHT is '-1.0") != std::string::npos,
          "a bad weight was taken");
}

void CheckOptions() {
  Require(ParseBytes("2GiB") == std::uint64_t{2} << 30 && ParseBytes("1.5 KB") == 1500 &&
              ParseBytes("7") == 7,
          "a size was misread");
  for (const char* text : {"", "GiB", "-1", "1XB", "nan", "1e30TiB", "0x"}) {
    try {
      ParseBytes(text);
      Require(false, text);
    } catch (const std::invalid_argument&) {
    }
  }
  struct Bad {
    const char* name;
    const char* value;
  };
  for (const Bad& bad : {Bad{"CLASS", "first"}, Bad{"LAUNCHES", "0"}, Bad{"LAUNCHES", "1.5"},
                         Bad{"TENANT", ""}, Bad{"TIMEOUT_S", "-1"}, Bad{"STATISTICS", "yes"}}) {
    const std::string value = bad.value;
    try {
      ReadOptions([&](const std::string& name) { return name == bad.name ? &value : nullptr; });
      Require(false, bad.name);
    } catch (const std::invalid_argument& error) {
      Require(std::string(error.what()).find(bad.name) != std::string::npos, error.what());
    }
  }
}

void CheckGate() {
  Options options;
  options.launches = 1;
  std::unique_ptr<Gate> gate = MakeGate(options);
  LaunchInfo first;
  first.launch = 1;
  LaunchInfo second;
  second.launch = 2;
  Require(gate->Enter(first, kNoDeadline), "the first had to wait");
  Require(!gate->Enter(second, missile::NowNs()), "two were let in at once");
  std::thread later([&] { Require(gate->Enter(second, kNoDeadline), "the second was refused"); });
  gate->Leave(first, 1);
  later.join();
  gate->Leave(second, 1);
  // Within a launch of host code, others do not wait.
  first.host_callback = true;
  Require(gate->Enter(first, kNoDeadline) && gate->Enter(second, missile::NowNs()),
          "a launch waited for the one it is part of");
  gate->Leave(second, 1);
  gate->Leave(first, 1);
  Require(gate->Enter(second, missile::NowNs()), "the bound was not free again");
}

void CheckAccount() {
  Account account("t", 0, 1000);
  Require(account.Charge(400) && !account.Charge(601), "the limit does not hold");
  Require(account.ChargeLaunch(100, 400, 0, false), "a launch that fits was refused");
  std::promise<bool> second;
  std::thread waiting([&] { second.set_value(account.ChargeLaunch(0, 300, 0, false)); });
  account.EndLaunch(400, false);
  Require(second.get_future().get(), "a launch did not wait for temporaries");
  waiting.join();
  account.EndLaunch(300, false);
  Require(!account.ChargeLaunch(501, 0, 0, false), "a launch went over the limit");
  Require(account.ChargeLaunch(400, 0, 400, false), "memory that is returned was not counted");
  account.Release(400);
  Require(account.Stats().used_bytes == 500 && account.Stats().peak_bytes == 900, "misaccounted");
}

void CheckDonations() {
  // input_output_alias {entries {parameter_number: 3} entries {}}, buffer_donor {entries {2}}.
  const std::string module("\x42\x06\x0a\x02\x10\x03\x0a\x00\x92\x01\x04\x0a\x02\x08\x02", 15);
  const auto read = ReadDonations(module, false);
  Require(read.has_value() && read->aliased == std::vector<std::int64_t>({0, 3}) &&
              read->all == std::vector<std::int64_t>({0, 2, 3}),
          "donations were misread");
  Require(ReadDonations(std::string("\x0a\x0f", 2) + module, true)->all.size() == 3, "no module");
  Require(!ReadDonations("\x42\x7f", false).has_value(), "half a message was read");
}

}  // namespace

int main(int argc, char** argv) {
  Require(argc == 2, "wants the plugin to wrap");
  setenv("MISSILE_PJRT_LIBRARY", argv[1], 1);
  void* fake = dlopen(argv[1], RTLD_NOW);
  Require(fake != nullptr, "no plugin to wrap");
  auto bytes_of = reinterpret_cast<Bytes>(dlsym(fake, "FakeBytes"));
  auto most_in_flight = reinterpret_cast<int (*)()>(dlsym(fake, "FakeMostInFlight"));
  CheckOptions();
  CheckGate();
  CheckAccount();
  CheckDonations();

  const Plugin plugin(GetPjrtApi());
  Client* client = MakeClient(
      plugin,
      {{"known", "1"}, {"missile_launches", std::to_string(kBound)}, {"missile_arena", "8KiB"}});
  LoadedExecutable* plain = Compile(plugin, client, "copy");
  LoadedExecutable* donating = Compile(plugin, client, "copy, buffer_donor");
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (unsigned seed = 0; seed < kThreads; ++seed) {
    threads.emplace_back([&, seed] { Use(plugin, client, plain, donating, bytes_of, seed); });
  }
  for (std::thread& thread : threads) thread.join();
  std::promise<void> end;
  Buffer* argument = Upload(plugin, client, {1.0F});
  Buffer* result = Launch(plugin, plain, argument, &end);  // Behind all others.
  end.get_future().wait();
  Destroy(plugin, argument);
  Destroy(plugin, result);
  Require(most_in_flight() <= kBound, "more launches were in flight than may be");
  for (LoadedExecutable* loaded : {plain, donating}) {
    Question<Slot::kLoadedExecutableDestroy> destroy;
    destroy.loaded = loaded;
    plugin.Call(&destroy);
  }
  DestroyClient(plugin, client);
  CheckCap(plugin);
  CheckTransfers(plugin, bytes_of);
  auto pause = reinterpret_cast<void (*)(bool)>(dlsym(fake, "FakePause"));
  CheckAliases(plugin, bytes_of, pause);
  CheckCopies(plugin, bytes_of, pause);
  const std::int64_t full = statistics.uploads_passed_full;
  CheckCounts(plugin);
  CheckNothingLeft();
  Require(full > 0, "the arena was never full");
  std::printf("%lld launches, %lld uploads placed, %lld passed\n",
              static_cast<long long>(statistics.launches),
              static_cast<long long>(statistics.uploads_placed),
              static_cast<long long>(statistics.uploads_passed_full));
  return 0;
}
