#include "arbiter.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "../src/clock.h"
#include "share.h"

namespace missile::arbiter {
namespace {

// Tenants toggle their words while they are looked at; what is missed rings again.
constexpr int kMostLooks = 8;
constexpr int kMostEvents = 32;
// Clocks of one machine are one clock, unless a tenant lives in a time namespace of its own.
constexpr std::int64_t kMostClockSkewNs = 1'000'000'000;
// A connection that does not say what it is.
constexpr std::size_t kMostConnections = 2 * std::size_t{kMostTenants};

[[noreturn]] void Throw(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

File Lock(const std::string& path) {
  File file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) Throw("arbiter: open " + path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (errno == EWOULDBLOCK) return {};
  Throw("arbiter: lock " + path);
}

std::string Prefix(const std::string& folder, const std::string& device) {
  CheckDevice(device);
  return folder + "/" + device;
}

}  // namespace

// What epoll hands back is the address of one of these.
struct Arbiter::Tenant {
  File socket;
  Peer peer;
  File bell;
  Mapping mapping;
  const TenantPage* page = nullptr;
  bool dead = false;

  // Read once.
  bool latency = false;
  bool yields = false;
  double weight = 1.0;
  std::array<char, kNameBytes> name{};
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  std::int64_t joined_ns = 0;

  bool awake = false;
  double vruntime_ns = 0.0;
  std::int64_t held_ns = 0;
  std::int64_t patience_end_ns = 0;
  // When it lost its turn with launches in flight, which have not ended yet; else 0.
  std::int64_t revoked_ns = 0;
  // How long these took to end, lately: seen from here, whatever it tells.
  std::int64_t drain_ns = 0;
  Sharer sharer;  // If it yields.

  bool Busy() const { return page->in_flight.load() != 0; }
  bool Wants() const { return page->wanting.load() != 0; }
};

Arbiter::Arbiter(const std::string& folder, const std::string& device, std::int64_t idle_exit_ns,
                 Limits limits)
    : limits_(limits),
      idle_exit_ns_(idle_exit_ns),
      path_(Prefix(folder, device) + ".sock"),
      lock_(Lock(Prefix(folder, device) + ".lock")),
      generation_(std::random_device{}() % Turn::kMostGeneration),
      settled_ns_(NowNs() + limits.settle_ns),
      empty_since_ns_(NowNs()) {
  if (!lock_) return;
  page_file_ = MakeMemory("missile-arbiter", sizeof(ArbiterPage));
  mapping_ = Mapping(page_file_, sizeof(ArbiterPage), true);
  page_ = static_cast<ArbiterPage*>(mapping_.data());
  if (!SealAgainstWriting(page_file_)) Throw("arbiter: sealing its page against writing");
  page_->magic = kArbiterMagic;
  page_->pid = getpid();
  page_->alive_ns.store(NowNs());
  epoll_ = File(epoll_create1(EPOLL_CLOEXEC));
  timer_ = File(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!epoll_ || !timer_) Throw("arbiter: epoll_create1 or timerfd_create");
  listener_ = Listen(path_);
  Watch(listener_, &listener_, EPOLLIN);
  // Edge-triggered: what has rung once is not read.
  Watch(timer_, &timer_, EPOLLIN | EPOLLET);
}

Arbiter::~Arbiter() {
  if (lock_) unlink(path_.c_str());
}

void Arbiter::Watch(const File& file, void* what, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = what;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, file.get(), &event) != 0) Throw("arbiter: epoll_ctl");
}

void Arbiter::Run() {
  if (other_runs()) return;
  std::array<epoll_event, kMostEvents> events{};
  for (;;) {
    std::int64_t again_ns = Look();
    if (tenants_.empty()) again_ns = std::min(again_ns, empty_since_ns_ + idle_exit_ns_);
    itimerspec due{};
    if (again_ns != kNeverNs) {
      const std::int64_t at_ns = std::max<std::int64_t>(again_ns, 1);
      due.it_value = {at_ns / 1'000'000'000, at_ns % 1'000'000'000};
    }
    timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &due, nullptr);
    const int count = epoll_wait(epoll_.get(), events.data(), kMostEvents, -1);
    if (count < 0 && errno != EINTR) Throw("arbiter: epoll_wait");
    for (int k = 0; k < count; ++k) Handle(events[k].data.ptr, events[k].events);
    for (auto it = tenants_.begin(); it != tenants_.end();) {
      if ((*it)->dead) {
        Drop(**it);
        it = tenants_.erase(it);
        if (tenants_.empty()) empty_since_ns_ = NowNs();
      } else {
        ++it;
      }
    }
    if (tenants_.empty() && NowNs() >= empty_since_ns_ + idle_exit_ns_) return;
  }
}

void Arbiter::Handle(void* what, std::uint32_t events) {
  if (what == &listener_) {
    Accept();
    return;
  }
  if (what == &timer_) return;
  for (const std::unique_ptr<Tenant>& tenant : tenants_) {
    // A bell rings only to wake the arbiter up.
    if (what == &tenant->bell) return;
    if (what == &tenant->peer) {
      tenant->dead = true;
      return;
    }
    if (what == tenant.get()) {
      if (tenant->page == nullptr && (events & EPOLLIN) != 0) {
        Greet(*tenant);
      } else {
        tenant->dead = true;  // It has left, or it speaks when it should not.
      }
      return;
    }
  }
}

void Arbiter::Accept() {
  File socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket || tenants_.size() >= kMostConnections) return;
  try {
    auto tenant = std::make_unique<Tenant>();
    tenant->peer = PeerOf(socket);
    if (tenant->peer.uid != getuid()) return;
    tenant->socket = std::move(socket);
    Watch(tenant->socket, tenant.get(), EPOLLIN | EPOLLRDHUP);
    Watch(tenant->peer.process, &tenant->peer, EPOLLIN);
    tenants_.push_back(std::move(tenant));
  } catch (const std::system_error& error) {
    std::fprintf(stderr, "missile arbiter: a tenant was turned away: %s\n", error.what());
  }
}

void Arbiter::Greet(Tenant& tenant) {
  Hello hello{};
  std::vector<File> files;
  if (!Receive(tenant.socket, &hello, sizeof hello, &files) || hello.magic != kWireMagic) {
    tenant.dead = true;
    return;
  }
  if (hello.ask == Ask::kList) {
    List(tenant.socket);
    tenant.dead = true;
    return;
  }
  Welcome welcome{};
  welcome.magic = kWireMagic;
  const std::string refusal = Admit(tenant, hello, std::move(files));
  const std::size_t shown = std::min(refusal.size(), welcome.refusal.size() - 1);
  std::memcpy(welcome.refusal.data(), refusal.data(), shown);
  welcome.slot = tenant.slot;
  welcome.generation = tenant.generation;
  std::vector<int> with;
  if (refusal.empty()) with.push_back(page_file_.get());
  if (!Send(tenant.socket, &welcome, sizeof welcome, with) || !refusal.empty()) tenant.dead = true;
}

// Why the tenant is not admitted; empty if it is.
std::string Arbiter::Admit(Tenant& tenant, const Hello& hello, std::vector<File> files) {
  if (hello.ask != Ask::kJoin) return "it asked for what this arbiter does not know";
  const std::int64_t now_ns = NowNs();
  if (hello.now_ns < now_ns - kMostClockSkewNs || hello.now_ns > now_ns + kMostClockSkewNs) {
    return "its monotonic clock is not the arbiter's: it lives in another time namespace";
  }
  if (files.size() != 2) return "it sent another number of files than its page and its bell";
  if (!IsSealed(files[0], sizeof(TenantPage))) {
    return "its page is no memfd of " + std::to_string(sizeof(TenantPage)) +
           " bytes that is sealed against shrinking";
  }
  try {
    tenant.mapping = Mapping(files[0], sizeof(TenantPage), false);
    tenant.bell = std::move(files[1]);
    Watch(tenant.bell, &tenant.bell, EPOLLIN | EPOLLET);
  } catch (const std::system_error& error) {
    return error.what();
  }
  const auto* page = static_cast<const TenantPage*>(tenant.mapping.data());
  if (page->magic != kTenantMagic) return "its page has another version";
  const double weight = page->weight;
  if (!(weight >= kLeastWeight && weight <= kMostWeight)) {
    return "its weight must be 0.001 to 1000, got " + std::to_string(weight);
  }
  std::uint32_t slot = 0;
  while (slot < kMostTenants && taken_.at(slot)) ++slot;
  if (slot == kMostTenants) {
    return "there are " + std::to_string(kMostTenants) + " tenants, no more are allowed";
  }
  tenant.weight = weight;
  tenant.latency = page->latency != 0;
  tenant.yields = !tenant.latency && page->yields != 0;
  tenant.sharer.weight = weight;
  tenant.name = page->name;
  tenant.name.back() = '\0';
  for (char& c : tenant.name) {
    if (c != '\0' && (c < ' ' || c > '~')) c = '?';
  }
  generation_ = generation_ % Turn::kMostGeneration + 1;
  tenant.slot = slot;
  tenant.generation = generation_;
  tenant.joined_ns = NowNs();
  // Launches that it was let go with by an arbiter before this one.
  tenant.patience_end_ns = tenant.joined_ns + limits_.least_patience_ns;
  tenant.page = page;
  taken_.at(slot) = true;
  (tenant.latency ? latency_ : tenant.yields ? yielding_ : best_effort_).push_back(&tenant);
  return {};
}

void Arbiter::List(const File& socket) {
  Row row{};
  const std::int64_t now_ns = NowNs();
  for (const std::unique_ptr<Tenant>& tenant : tenants_) {
    if (tenant->page == nullptr) continue;
    const Figures& figures = tenant->page->figures;
    row.pid = tenant->peer.pid;
    row.latency = tenant->latency ? 1 : 0;
    row.in_flight = tenant->page->in_flight.load();
    row.wanting = tenant->page->wanting.load();
    const Turn turn(page_->slots.at(tenant->slot).turn.load());
    row.holds = now_ns < turn.until_ns() ? 1 : 0;
    row.weight = tenant->weight;
    row.name = tenant->name;
    row.joined_ns = tenant->joined_ns;
    row.now_ns = now_ns;
    row.held_ns = tenant->held_ns;
    row.launches = figures.launches.load();
    row.waits = figures.waits.load();
    row.waited_ns = figures.waited_ns.load();
    row.busy_ns = figures.busy_ns.load();
    row.longest_ns = figures.longest_ns.load();
    row.memory_bytes = figures.memory_bytes.load();
    row.memory_peak_bytes = figures.memory_peak_bytes.load();
    row.memory_limit_bytes = figures.memory_limit_bytes.load();
    if (!Send(socket, &row, sizeof row)) return;
  }
  row = Row{};
  Send(socket, &row, sizeof row);
}

void Arbiter::Drop(Tenant& tenant) {
  // The tenant has it open too, so that closing ours does not take it out.
  if (tenant.bell) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, tenant.bell.get(), nullptr);
  if (tenant.page == nullptr) return;
  if (holder_ == &tenant) holder_ = nullptr;
  if (charged_ == &tenant) charged_ = nullptr;
  page_->slots.at(tenant.slot).turn.store(0);
  taken_.at(tenant.slot) = false;
  for (std::vector<Tenant*>* of : {&latency_, &best_effort_, &yielding_}) {
    of->erase(std::remove(of->begin(), of->end(), &tenant), of->end());
  }
}

View Arbiter::MakeView(std::int64_t now_ns) {
  View view;
  view.now_ns = now_ns;
  view.settled_ns = settled_ns_;
  for (const Tenant* tenant : latency_) {
    if (!tenant->Busy()) continue;
    // A stamp of the future is none: it would hold best effort back for ever.
    const std::int64_t stamp_ns = tenant->page->stamp_ns.load();
    if (stamp_ns < 0 || stamp_ns > NowNs()) continue;
    view.latency_end_ns = std::max(view.latency_end_ns, stamp_ns + limits_.claim_ns);
  }
  Charge(now_ns);
  double least_ns = HUGE_VAL;
  for (const Tenant* tenant : best_effort_) {
    if (tenant->awake) least_ns = std::min(least_ns, tenant->vruntime_ns);
  }
  if (least_ns != HUGE_VAL) floor_ns_ = std::max(floor_ns_, least_ns);
  view.tenants.reserve(best_effort_.size());
  for (Tenant* tenant : best_effort_) {
    TenantView one;
    one.wants = tenant->Wants();
    one.busy = tenant->Busy();
    if (tenant->revoked_ns != 0 && !one.busy) {
      const std::int64_t drain_ns = std::min(now_ns - tenant->revoked_ns, limits_.most_patience_ns);
      tenant->drain_ns = std::max(drain_ns, tenant->drain_ns / 2);
      tenant->revoked_ns = 0;
    }
    // Who was away starts at the least of those that were not: absence earns no credit.
    const bool awake = one.wants || one.busy || tenant == holder_;
    if (awake && !tenant->awake) tenant->vruntime_ns = std::max(tenant->vruntime_ns, floor_ns_);
    tenant->awake = awake;
    one.weight = tenant->weight;
    one.vruntime_ns = tenant->vruntime_ns;
    one.patience_end_ns = tenant->patience_end_ns;
    if (tenant == holder_) {
      view.holder = static_cast<int>(view.tenants.size());
      view.held_since_ns = held_since_ns_;
      view.until_ns = Turn(page_->slots.at(tenant->slot).turn.load()).until_ns();
      if (one.wants || one.busy) {
        idle_since_ns_ = kNeverNs;
      } else if (idle_since_ns_ == kNeverNs) {
        idle_since_ns_ = now_ns;
      }
      view.idle_since_ns = idle_since_ns_;
    }
    view.tenants.push_back(one);
  }
  return view;
}

// The time of a turn is the holder's, and so is the time until its launches have ended after that.
// While nobody waits, it is as much of it as the holder says that it had launches in flight.
void Arbiter::Charge(std::int64_t now_ns) {
  if (charged_ == nullptr) return;
  std::int64_t spent_ns = std::max<std::int64_t>(now_ns - charged_ns_, 0);
  charged_ns_ = now_ns;
  const std::uint64_t before_ns = std::exchange(busy_ns_, charged_->page->figures.busy_ns.load());
  if (page_->contended.load() == 0) {
    const std::uint64_t busy_ns = busy_ns_ > before_ns ? busy_ns_ - before_ns : 0;
    spent_ns = static_cast<std::int64_t>(std::min<std::uint64_t>(spent_ns, busy_ns));
  }
  charged_->held_ns += spent_ns;
  charged_->vruntime_ns += static_cast<double>(spent_ns) / charged_->weight;
  if (charged_ != holder_ && !charged_->Busy()) charged_ = nullptr;
}

void Arbiter::SetTurn(Tenant& tenant, Turn turn) {
  Slot& slot = page_->slots.at(tenant.slot);
  if (slot.turn.exchange(turn.word()) == turn.word()) return;
  slot.bell.fetch_add(1);
  FutexWake(slot.bell);
}

// Whether anything is different now for those who read it.
bool Arbiter::Publish(const Decision& decision, std::int64_t now_ns) {
  Tenant* next = decision.holder == kNobody ? nullptr : best_effort_.at(decision.holder);
  bool changed = false;
  const auto set = [&changed](std::atomic<std::uint32_t>& flag, bool value) {
    if ((flag.load() != 0) == value) return;
    flag.store(value ? 1 : 0);
    changed = true;
  };
  // Flags first: who announces itself after the next look must ring.
  set(page_->held_back, decision.held_back);
  set(page_->contended, decision.contended);
  if (holder_ != nullptr && holder_ != next) {
    SetTurn(*holder_, Turn());
    const std::int64_t patience_ns =
        std::clamp(2 * holder_->drain_ns, limits_.least_patience_ns, limits_.most_patience_ns);
    holder_->patience_end_ns = now_ns + patience_ns;
    holder_->revoked_ns = now_ns;
    holder_ = nullptr;
    // Only now can it be known whether a launch of it slipped in.
    return true;
  }
  if (next == nullptr) {
    set(page_->open, false);
    return changed;
  }
  if (page_->open.load() == 0) {
    // The turn itself comes after one more look: LS that came before it saw `open` did not ring.
    page_->open.store(1);
    return true;
  }
  if (holder_ != next) {
    holder_ = charged_ = next;
    held_since_ns_ = charged_ns_ = now_ns;
    busy_ns_ = next->page->figures.busy_ns.load();
    idle_since_ns_ = kNeverNs;
    changed = true;
  }
  SetTurn(*next, Turn(next->generation, decision.until_ns));
  return changed;
}

// No order among these stores matters: nobody waits for launches of tenants that yield.
std::int64_t Arbiter::LookAtYielding(std::int64_t now_ns) {
  if (yielding_.empty()) return kNeverNs;
  if (now_ns >= shared_out_ns_ + limits_.quantum_ns) {
    const std::int64_t elapsed_ns = std::min(now_ns - shared_out_ns_, 2 * limits_.quantum_ns);
    shared_out_ns_ = now_ns;
    std::vector<Sharer*> sharers;
    for (Tenant* tenant : yielding_) {
      tenant->sharer.at_work = tenant->Busy() || tenant->Wants();
      if (tenant->sharer.at_work && tenant->sharer.may_launch) tenant->held_ns += elapsed_ns;
      sharers.push_back(&tenant->sharer);
    }
    ShareOut(elapsed_ns, sharers);
  }
  int count = 0;
  for (Tenant* tenant : yielding_) {
    if (!tenant->sharer.may_launch) {
      SetTurn(*tenant, Turn());
    } else if (tenant->Busy() || tenant->Wants()) {
      const Turn turn(page_->slots.at(tenant->slot).turn.load());
      const std::int64_t until_ns = Renewed(now_ns, turn.until_ns(), limits_);
      SetTurn(*tenant, Turn(tenant->generation, until_ns));
    }
    if (tenant->sharer.counts) ++count;
  }
  return count > 1 ? shared_out_ns_ + limits_.quantum_ns : kNeverNs;
}

std::int64_t Arbiter::Look() {
  std::int64_t now_ns = NowNs();
  page_->alive_ns.store(now_ns);
  for (int k = 0; k < kMostLooks; ++k) {
    const Decision decision = Decide(MakeView(now_ns), limits_);
    if (!Publish(decision, now_ns)) {
      return std::min(decision.look_again_ns, LookAtYielding(now_ns));
    }
    now_ns = NowNs();
  }
  return now_ns;
}

}  // namespace missile::arbiter
