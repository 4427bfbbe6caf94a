#include "tenant.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <future>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "../src/clock.h"
#include "wire.h"

extern char** environ;

namespace missile::arbiter {
namespace {

// After the loss of its arbiter a best-effort launch waits so long for another one.
constexpr std::int64_t kNestedNs = 20'000'000;
constexpr std::int64_t kAloneNs = 100'000'000;
// An arbiter that was rung and has not looked at its tenants for so long is stopped or stuck.
constexpr std::int64_t kHungNs = 200'000'000;
// What is waited for rings; this bounds what an error in that could cost.
constexpr std::int64_t kSliceNs = 50'000'000;
// A turn is asked to be renewed when less than this is left of it: half of a lease.
constexpr std::int64_t kRenewNs = 50'000'000;
constexpr int kFirstRetryMs = 2;
constexpr int kLastRetryMs = 1000;
constexpr int kTriesAtStart = 10;

TenantOptions Checked(TenantOptions options) {
  CheckDevice(options.device);
  const bool plain = std::all_of(options.name.begin(), options.name.end(),
                                 [](char c) { return c >= ' ' && c <= '~'; });
  if (options.name.empty() || options.name.size() >= kNameBytes || !plain) {
    throw std::invalid_argument("arbiter: a tenant's name has 1 to " +
                                std::to_string(kNameBytes - 1) + " printable characters, got '" +
                                options.name + "'");
  }
  if (!(options.weight >= kLeastWeight && options.weight <= kMostWeight)) {
    throw std::invalid_argument("arbiter: a weight must be 0.001 to 1000, got " +
                                std::to_string(options.weight));
  }
  if (options.most_in_flight < 1 || options.most_in_flight > kMostInFlight) {
    throw std::invalid_argument("arbiter: most_in_flight must be 1 to 1024, got " +
                                std::to_string(options.most_in_flight));
  }
  return options;
}

std::string BesideThisLibrary() {
  Dl_info about{};
  if (dladdr(reinterpret_cast<const void*>(&BesideThisLibrary), &about) == 0 ||
      about.dli_fname == nullptr) {
    return "missile-arbiter";
  }
  const std::string library = about.dli_fname;
  const std::size_t slash = library.rfind('/');
  return (slash == std::string::npos ? std::string() : library.substr(0, slash + 1)) +
         "missile-arbiter";
}

// All threads of this process but the calling one. Those that they start inherit it.
// Whether they all are.
bool IdleOtherThreads() {
  const pid_t me = static_cast<pid_t>(syscall(SYS_gettid));
  DIR* folder = opendir("/proc/self/task");
  if (folder == nullptr) return false;
  bool all = true;
  const sched_param none{};
  while (const dirent* entry = readdir(folder)) {
    const auto thread = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (thread <= 0 || thread == me) continue;
    // A thread that has ended meanwhile needs none.
    if (sched_setscheduler(thread, SCHED_IDLE, &none) != 0 && errno != ESRCH) {
      std::fprintf(stderr, "missile: SCHED_IDLE was refused: %s\n",
                   std::generic_category().message(errno).c_str());
      all = false;
      break;
    }
  }
  closedir(folder);
  return all;
}

// No memory of an arbiter yet: all zeros, no turn.
Mapping EmptyArbiterPage() {
  return {MakeMemory("missile-none", sizeof(ArbiterPage)), sizeof(ArbiterPage), false};
}

}  // namespace

Tenant::Tenant(TenantOptions options)
    : options_(Checked(std::move(options))),
      folder_(Folder()),
      path_(folder_ + "/" + options_.device + ".sock"),
      lost_ns_(NowNs()) {
  page_file_ = MakeMemory("missile-tenant", sizeof(TenantPage));
  page_mapping_ = Mapping(page_file_, sizeof(TenantPage), true);
  page_ = static_cast<TenantPage*>(page_mapping_.data());
  page_->magic = kTenantMagic;
  page_->latency = options_.latency ? 1 : 0;
  page_->weight = options_.weight;
  std::memcpy(page_->name.data(), options_.name.c_str(), options_.name.size());
  bell_ = File(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  stop_ = File(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!bell_ || !stop_) throw std::system_error(errno, std::generic_category(), "eventfd");
  arbiter_mapping_ = EmptyArbiterPage();
  arbiter_ = static_cast<const ArbiterPage*>(arbiter_mapping_.data());
  std::promise<void> promise;
  std::future<void> joined = promise.get_future();
  // The keeper stays as it is: an arbiter that it starts must not be of the idle class.
  keeper_ = std::thread([this, promise = std::move(promise)]() mutable {
    try {
      if (options_.yields || (options_.idle_threads && IdleOtherThreads())) page_->yields = 1;
      FindFirstArbiter();
    } catch (...) {
      promise.set_exception(std::current_exception());
      return;
    }
    promise.set_value();
    Keep();
  });
  try {
    joined.get();
  } catch (...) {
    keeper_.join();
    throw;
  }
}

Tenant::~Tenant() {
  const std::uint64_t one = 1;
  if (write(stop_.get(), &one, sizeof one) < 0) std::perror("missile: eventfd");
  keeper_.join();
}

const Slot& Tenant::slot() const {
  return arbiter_->slots[(place_.load(std::memory_order_relaxed) >> 32) % kMostTenants];
}

std::int32_t Tenant::arbiter_pid() const { return arbiter_->pid; }

void Tenant::Ring() {
  const std::uint64_t one = 1;
  // Full is as good as rung.
  if (write(bell_.get(), &one, sizeof one) < 0 && errno != EAGAIN) std::perror("missile: eventfd");
}

std::int64_t Tenant::Enter(std::int64_t deadline_ns, bool nests) {
  if (options_.latency) return EnterLatency();
  std::int64_t entered_ns = NowNs();
  if (!TryGo(entered_ns, entered_ns)) entered_ns = WaitForTurn(deadline_ns);
  if (nests && entered_ns != 0) {
    nests_.fetch_add(1);
    // Others that wait for this launch may go now: it could be waiting for them.
    FutexWake(page_->in_flight);
  }
  return entered_ns;
}

std::int64_t Tenant::EnterLatency() {
  const std::int64_t now_ns = NowNs();
  page_->stamp_ns.store(now_ns);
  page_->in_flight.fetch_add(1);
  // Not only the first: a claim that was quiet for long has lapsed, and one thread may be ahead.
  if (arbiter_->open.load() != 0) Ring();
  return now_ns;
}

// One launch of the tenant may launch within itself: what waits may be what it waits for. So no
// bound holds such a one up, and its turn for a short time only.
bool Tenant::TryGo(std::int64_t now_ns, std::int64_t since_ns) {
  const bool nested = nests_.load() != 0;
  const std::uint32_t before = page_->in_flight.fetch_add(1);
  if (((nested || before < options_.most_in_flight) && MayGo(now_ns)) ||
      (nested && now_ns - since_ns >= kNestedNs)) {
    page_->stamp_ns.store(now_ns, std::memory_order_relaxed);
    return true;
  }
  GoBack();
  return false;
}

// Looks at the arbiter's page after this launch was counted, never before.
bool Tenant::MayGo(std::int64_t now_ns) {
  const std::uint64_t place = place_.load();
  const Turn turn(slot().turn.load());
  if (turn.Of(static_cast<std::uint32_t>(place)) && now_ns < turn.until_ns()) {
    if (turn.until_ns() - now_ns < kRenewNs) Ring();
    return true;
  }
  const std::int64_t lost_ns = lost_ns_.load();
  if (lost_ns != 0) return now_ns - lost_ns >= kAloneNs;
  const std::int64_t hung_ns = hung_ns_.load();
  if (hung_ns == 0) return false;
  if (arbiter_->alive_ns.load() < hung_ns) return true;
  hung_ns_.store(0);
  return false;
}

// A launch is no more in flight, or was not let go.
void Tenant::GoBack() {
  const std::uint32_t before = page_->in_flight.fetch_sub(1);
  if (page_->wanting.load() != 0) FutexWake(page_->in_flight);
  if (before != 1) return;
  if (page_->yields != 0) return;  // Nobody waits for its launches.
  const bool mine = Turn(slot().turn.load()).Of(static_cast<std::uint32_t>(place_.load()));
  if (!mine || arbiter_->contended.load() != 0) Ring();
}

std::int64_t Tenant::WaitForTurn(std::int64_t deadline_ns) {
  const std::int64_t since_ns = NowNs();
  page_->wanting.fetch_add(1);
  Ask(since_ns);
  std::int64_t now_ns = since_ns;
  std::int64_t entered_ns = 0;
  for (;;) {
    // Read before it is tried, so that what happens after the try does not let it sleep.
    const std::atomic<std::uint32_t>& bell = slot().bell;
    const std::uint32_t rung = bell.load();
    const std::uint32_t in_flight = page_->in_flight.load();
    const bool full = in_flight >= options_.most_in_flight && nests_.load() == 0;
    if (!full && TryGo(now_ns, since_ns)) {
      entered_ns = now_ns;
      break;
    }
    if (now_ns >= deadline_ns) break;
    std::int64_t most_ns = std::min(kSliceNs, deadline_ns - now_ns);
    if (nests_.load() != 0) {
      most_ns = std::clamp<std::int64_t>(since_ns + kNestedNs - now_ns, 100'000, most_ns);
    }
    if (const std::int64_t lost_ns = lost_ns_.load(); lost_ns != 0) {
      most_ns = std::clamp<std::int64_t>(lost_ns + kAloneNs - now_ns, 100'000, most_ns);
    }
    if (full) {
      FutexWait(page_->in_flight, in_flight, most_ns);
    } else {
      FutexWait(bell, rung, most_ns);
    }
    now_ns = NowNs();
    if (!full && connected()) Ask(now_ns);
  }
  page_->wanting.fetch_sub(1);
  if (entered_ns == 0) {
    Ring();  // A turn that came for this launch is for others now.
  } else {
    page_->figures.waits.fetch_add(1, std::memory_order_relaxed);
  }
  page_->figures.waited_ns.fetch_add(now_ns - since_ns, std::memory_order_relaxed);
  return entered_ns;
}

// Rings unless it has done so already and is unheard. Who is unheard for long goes on alone.
void Tenant::Ask(std::int64_t now_ns) {
  std::int64_t asked_ns = asked_ns_.load();
  if (asked_ns == 0 || arbiter_->alive_ns.load() >= asked_ns) {
    if (asked_ns_.compare_exchange_strong(asked_ns, now_ns)) Ring();
  } else if (now_ns - asked_ns >= kHungNs) {
    hung_ns_.store(now_ns);
  }
}

void Tenant::Leave(std::int64_t device_ns, bool nests) {
  if (nests) nests_.fetch_sub(1);
  Figures& figures = page_->figures;
  const auto took_ns = static_cast<std::uint64_t>(std::max<std::int64_t>(device_ns, 0));
  figures.launches.fetch_add(1, std::memory_order_relaxed);
  figures.busy_ns.fetch_add(took_ns, std::memory_order_relaxed);
  std::uint64_t longest_ns = figures.longest_ns.load(std::memory_order_relaxed);
  while (took_ns > longest_ns && !figures.longest_ns.compare_exchange_weak(longest_ns, took_ns)) {
  }
  if (!options_.latency) {
    GoBack();
    return;
  }
  page_->stamp_ns.store(NowNs(), std::memory_order_relaxed);
  if (page_->in_flight.fetch_sub(1) == 1 && arbiter_->held_back.load() != 0) Ring();
}

void Tenant::TellMemory(std::uint64_t used, std::uint64_t peak, std::uint64_t limit) {
  page_->figures.memory_bytes.store(used, std::memory_order_relaxed);
  page_->figures.memory_peak_bytes.store(peak, std::memory_order_relaxed);
  page_->figures.memory_limit_bytes.store(limit, std::memory_order_relaxed);
}

bool Tenant::Join() {
  File socket = Connect(path_);
  if (!socket) return false;
  const Hello hello{kWireMagic, Ask::kJoin, NowNs()};
  if (!Send(socket, &hello, sizeof hello, {page_file_.get(), bell_.get()})) return false;
  Welcome welcome{};
  std::vector<File> files;
  // One that does not answer is not waited for: it is as good as none.
  pollfd answer{socket.get(), POLLIN, 0};
  if (poll(&answer, 1, static_cast<int>(kHungNs / 1'000'000)) <= 0) return false;
  if (!Receive(socket, &welcome, sizeof welcome, &files)) return false;
  welcome.refusal.back() = '\0';
  if (welcome.refusal[0] != '\0') {
    throw std::invalid_argument(std::string("arbiter: tenant '") + options_.name +
                                "' was refused: " + welcome.refusal.data());
  }
  if (files.size() != 1 || !IsSealed(files[0], sizeof(ArbiterPage)) ||
      welcome.slot >= kMostTenants) {
    throw std::invalid_argument("arbiter: what listens at " + path_ +
                                " is no arbiter of this version");
  }
  // First it stands nowhere, so that it does not read its old place in the new page.
  place_.store(0);
  FutexWake(slot().bell);
  Mapping mapped(files[0], sizeof(ArbiterPage), false, arbiter_mapping_.data());
  mapped.Forget();
  place_.store(std::uint64_t{welcome.slot} << 32 | welcome.generation);
  asked_ns_.store(0);
  hung_ns_.store(0);
  socket_ = std::move(socket);
  lost_ns_.store(0);
  // What was announced while nobody listened.
  Ring();
  return true;
}

bool Tenant::StartArbiter() const {
  std::string program = options_.program.empty() ? BesideThisLibrary() : options_.program;
  std::string detach = "--detach";
  std::string folder = folder_;
  std::string device = options_.device;
  char* arguments[] = {program.data(), detach.data(), folder.data(), device.data(), nullptr};
  pid_t child = 0;
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // What this process blocks or ignores is not for the arbiter.
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  const int failed =
      posix_spawnp(&child, program.c_str(), nullptr, &attributes, arguments, environ);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0) return false;
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    // The process may ignore its children: then it is not known how this one ended.
    if (errno != EINTR) return true;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool Tenant::FindArbiter() { return Join() || (StartArbiter() && Join()); }

void Tenant::FindFirstArbiter() {
  for (int k = 1; !FindArbiter(); ++k) {
    if (k == kTriesAtStart) {
      throw std::runtime_error("arbiter: none answers at " + path_ + ", and " +
                               (options_.program.empty() ? BesideThisLibrary() : options_.program) +
                               " could not be started");
    }
    poll(nullptr, 0, kFirstRetryMs << k);
  }
}

void Tenant::Keep() {
  int retry_ms = kFirstRetryMs;
  for (;;) {
    if (connected()) {
      pollfd files[] = {{socket_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
      if (poll(files, 2, -1) < 0) continue;
      if (files[1].revents != 0) return;
      lost_ns_.store(NowNs());
      socket_ = File();
      FutexWake(slot().bell);
      retry_ms = kFirstRetryMs;
    }
    try {
      if (FindArbiter()) continue;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "missile: %s\n", error.what());
      retry_ms = kLastRetryMs;
    }
    pollfd stop{stop_.get(), POLLIN, 0};
    if (poll(&stop, 1, retry_ms) > 0) return;
    retry_ms = std::min(2 * retry_ms, kLastRetryMs);
  }
}

}  // namespace missile::arbiter
