// An arbiter and its tenants in one process, used from several threads: for the sanitizers.
//
// Tenants come, launch and go while others do. No two best-effort launches are ever in flight at a
// time.
#include "../arbiter/arbiter.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../arbiter/tenant.h"
#include "../src/clock.h"

namespace {

using missile::NowNs;
using missile::arbiter::Tenant;
using missile::arbiter::TenantOptions;

constexpr std::int64_t kLongNs = 60'000'000'000;

std::atomic<int> failures{0};

void Expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  failures.fetch_add(1);
}

TenantOptions Named(const std::string& name, bool latency) {
  TenantOptions options;
  options.device = "test";
  options.name = name;
  options.latency = latency;
  options.program = "/nowhere";  // There is one already.
  return options;
}

void Launches(std::atomic<int>* in_flight, const std::string& name) {
  for (int life = 0; life < 4; ++life) {
    Tenant tenant(Named(name, false));
    for (int k = 0; k < 50; ++k) {
      const std::int64_t entered_ns = tenant.Enter(NowNs() + kLongNs);
      Expect(entered_ns != 0, "a launch has its turn");
      Expect(in_flight->fetch_add(1) == 0, "one best-effort launch at a time");
      std::this_thread::yield();
      in_flight->fetch_sub(1);
      tenant.Leave(NowNs() - entered_ns);
    }
    tenant.TellMemory(1, 2, 3);
  }
}

void Announces() {
  Tenant tenant(Named("latency", true));
  for (int k = 0; k < 200; ++k) {
    const std::int64_t entered_ns = tenant.Enter(0);
    std::this_thread::yield();
    tenant.Leave(NowNs() - entered_ns);
  }
}

// Several threads share one tenant, whose launches in flight are bounded.
void Shares(std::atomic<int>* in_flight) {
  TenantOptions options = Named("shared", false);
  options.most_in_flight = 1;
  Tenant tenant(options);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int k = 0; k < 50; ++k) {
        const std::int64_t entered_ns = tenant.Enter(NowNs() + kLongNs);
        Expect(entered_ns != 0, "a thread of a tenant has its turn");
        Expect(in_flight->fetch_add(1) == 0, "one launch of a tenant at a time");
        in_flight->fetch_sub(1);
        tenant.Leave(NowNs() - entered_ns);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main() {
  std::string folder = std::filesystem::temp_directory_path() / "arbiter-test-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return 1;
  setenv("XDG_RUNTIME_DIR", folder.c_str(), 1);
  {
    missile::arbiter::Arbiter arbiter(missile::arbiter::Folder(), "test", 200'000'000);
    std::thread daemon([&arbiter] { arbiter.Run(); });
    std::atomic<int> in_flight{0};
    std::vector<std::thread> threads;
    threads.emplace_back(Launches, &in_flight, "one");
    threads.emplace_back(Launches, &in_flight, "two");
    threads.emplace_back(Shares, &in_flight);
    threads.emplace_back(Announces);
    for (std::thread& thread : threads) thread.join();
    daemon.join();  // It ends when there is nobody left.
  }
  std::filesystem::remove_all(folder);
  if (failures.load() == 0) std::puts("ok");
  return failures.load() == 0 ? 0 : 1;
}
