// The arbiter of one device: a process that tenants connect to.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "decide.h"
#include "memory.h"
#include "page.h"
#include "wire.h"

namespace missile::arbiter {

class Arbiter {
 public:
  // Takes the device's lock and listens, in a folder of Folder()'s kind. `idle_exit_ns`: Run() ends
  // when there has been no tenant for so long. Throws std::system_error, std::invalid_argument.
  Arbiter(const std::string& folder, const std::string& device, std::int64_t idle_exit_ns,
          Limits limits = {});
  ~Arbiter();
  Arbiter(const Arbiter&) = delete;
  Arbiter& operator=(const Arbiter&) = delete;

  // Whether another process is the arbiter of this device. Then there is nothing to run.
  bool other_runs() const { return !lock_; }
  const std::string& path() const { return path_; }

  void Run();

 private:
  struct Tenant;
  using Tenants = std::list<std::unique_ptr<Tenant>>;

  void Accept();
  void Greet(Tenant& tenant);
  std::string Admit(Tenant& tenant, const Hello& hello, std::vector<File> files);
  void List(const File& socket);
  void Drop(Tenant& tenant);
  void Handle(void* what, std::uint32_t events);

  // Looks at all pages, decides, and publishes, until a further look changes nothing. Returns when
  // to look again.
  std::int64_t Look();
  View MakeView(std::int64_t now_ns);
  bool Publish(const Decision& decision, std::int64_t now_ns);
  // Tenants that yield, beside all that. Returns when to look again.
  std::int64_t LookAtYielding(std::int64_t now_ns);
  void SetTurn(Tenant& tenant, Turn turn);
  void Charge(std::int64_t now_ns);
  void Watch(const File& file, void* what, std::uint32_t events);

  Limits limits_;
  std::int64_t idle_exit_ns_;
  std::string path_;
  File lock_;
  File listener_;
  File epoll_;
  File timer_;
  File page_file_;
  Mapping mapping_;
  ArbiterPage* page_ = nullptr;

  Tenants tenants_;  // Those that have not said what they are among them.
  std::vector<Tenant*> best_effort_;
  std::vector<Tenant*> latency_;
  std::vector<Tenant*> yielding_;
  std::array<bool, kMostTenants> taken_{};
  std::uint32_t generation_;
  std::int64_t settled_ns_;
  std::int64_t empty_since_ns_;
  Tenant* holder_ = nullptr;
  std::int64_t held_since_ns_ = 0;
  Tenant* charged_ = nullptr;  // The holder, or the last one until its launches have ended.
  std::int64_t charged_ns_ = 0;
  std::uint64_t busy_ns_ = 0;  // What it had told when it was charged last.
  std::int64_t idle_since_ns_ = kNeverNs;
  double floor_ns_ = 0.0;
  std::int64_t shared_out_ns_ = 0;
  bool open_ = false;
};

}  // namespace missile::arbiter
