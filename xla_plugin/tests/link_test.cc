// Hammers the link without Python, for sanitizers:
//
//   c++ -std=c++17 -g -O1 -pthread -fsanitize=thread -Ixla_plugin/src -o link_test
//       xla_plugin/tests/link_test.cc xla_plugin/src/{copy,engine,fair,link}.cc
#include "link.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <stdexcept>
#include <thread>

#include "fair.h"

namespace {

std::atomic<std::int64_t> allocations{0};

void Check(bool holds, const char* what, int line) {
  if (holds) return;
  std::fprintf(stderr, "link_test.cc:%d: %s does not hold\n", line, what);
  std::abort();
}
#define CHECK(condition) Check((condition), #condition, __LINE__)

}  // namespace

// Counted, since a link must not allocate for each chunk. Not inlined, lest compilers see free()
// meet what they take for another operator new.
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}

namespace missile {
namespace {

constexpr std::int64_t kPatienceNs = 60'000'000'000;

using Bytes = std::vector<std::byte>;

Bytes Random(std::size_t size, unsigned seed) {
  std::mt19937 rng(seed);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng());
  return bytes;
}

std::atomic<int> keepers{0};
std::atomic<int> ends{0};

class Counted : public Keeper {
 public:
  explicit Counted(bool wants_end) : Keeper(wants_end) { ++keepers; }
  ~Counted() override { --keepers; }
  void OnEnd(const std::shared_ptr<Copy>& copy) override {
    CHECK(copy->done());
    ++ends;
  }
};

// What a copy of `size` bytes in chunks of 1 KiB allocates.
std::int64_t AllocationsOf(Flow& flow, Bytes& to, const Bytes& from, std::size_t size) {
  const std::int64_t before = allocations.load();
  const auto copy = flow.Submit({{to.data(), from.data(), size}}, nullptr);
  CHECK(copy->Wait(kPatienceNs));
  return allocations.load() - before;
}

void ChunksDoNotAllocate() {
  LinkOptions options;
  options.chunk_bytes = 1024;
  options.threads = 2;
  options.history = 64;
  Link link(options);
  const auto flow = link.AddFlow("a", 1.0, false);
  const Bytes from = Random(std::size_t{1} << 20, 0);
  Bytes to(from.size());
  const std::int64_t one = AllocationsOf(*flow, to, from, 1024);
  const std::int64_t many = AllocationsOf(*flow, to, from, from.size());
  CHECK(one == many);
  CHECK(many <= 3);  // The caller's list of pieces, the copy, its place in the queue.
  CHECK(link.Stats().at(0).chunks == 1025);
  CHECK(link.History(1000).size() == 64);
  CHECK(to == from);
}

void ManyThreadsAskCancelAndClose(Stores stores) {
  LinkOptions options;
  options.chunk_bytes = 512;
  options.threads = 2;
  options.stores = stores;
  options.history = 16;
  options.emulate_latency_ns = 1000;
  Link link(options);
  const Bytes from = Random(8192, 1);
  std::atomic<int> asked{0};
  ends = 0;
  auto client = [&](unsigned seed) {
    std::mt19937 rng(seed);
    for (int round = 0; round < 20; ++round) {
      const std::string name = std::to_string(seed) + "/" + std::to_string(round);
      const auto flow = link.AddFlow(name, 1.0 + rng() % 8, rng() % 2 == 0);
      std::vector<Bytes> to(10, Bytes(from.size()));
      std::vector<std::shared_ptr<Copy>> copies;
      for (Bytes& mine : to) {
        const std::size_t at = 8 + rng() % 4088;
        const std::size_t size = rng() % 4096;
        const bool wants_end = rng() % 2 == 0;
        asked += wants_end ? 1 : 0;
        copies.push_back(flow->Submit({{mine.data() + at, from.data() + at, size},
                                       {mine.data(), from.data(), 7},
                                       {mine.data() + 1, from.data() + 1, 0}},
                                      std::make_unique<Counted>(wants_end)));
        if (rng() % 4 == 0) copies[rng() % copies.size()]->Cancel();
        flow->SetWeight(1.0 + rng() % 8);
      }
      if (round % 3 == 0) flow->Close();
      for (std::size_t k = 0; k < copies.size(); ++k) {
        CHECK(copies[k]->Wait(kPatienceNs));
        copies[k]->DropKeeper();
        CHECK(copies[k]->times().ended_ns >= copies[k]->times().submitted_ns);
        CHECK(copies[k]->Cancel() == !copies[k]->error().empty());
        CHECK(copies[k]->Cancel() || std::memcmp(to[k].data(), from.data(), 7) == 0);
      }
      flow->Close();
    }
  };
  std::vector<std::thread> clients;
  for (unsigned seed = 0; seed < 6; ++seed) clients.emplace_back(client, seed);
  for (int k = 0; k < 200; ++k) {
    link.Stats();
    link.History(8);
  }
  for (std::thread& thread : clients) thread.join();
  link.Close();
  CHECK(ends == asked);
  CHECK(keepers == 0);
  CHECK(link.Stats().empty());
}

void ALinkIsClosedInTheMiddle() {
  for (unsigned seed = 0; seed < 30; ++seed) {
    LinkOptions options;
    options.chunk_bytes = 256;
    options.threads = 1 + static_cast<int>(seed % 3);
    auto link = std::make_unique<Link>(options);
    const Bytes from = Random(4096, seed);
    std::vector<Bytes> to(4, Bytes(from.size()));
    std::vector<std::thread> clients;
    std::atomic<bool> refused{false};
    for (std::size_t k = 0; k < to.size(); ++k) {
      clients.emplace_back([&, k, flow = link->AddFlow(std::to_string(k), 1.0, k == 0)] {
        for (;;) {
          std::shared_ptr<Copy> copy;
          try {
            copy = flow->Submit({{to[k].data(), from.data(), from.size()}},
                                std::make_unique<Counted>(k % 2 == 0));
          } catch (const std::runtime_error&) {
            refused = true;
            return;
          }
          CHECK(copy->Wait(kPatienceNs));
          CHECK(!copy->error().empty() || to[k] == from);
        }
      });
    }
    std::thread other([&] { link->Close(); });
    link->Close();
    other.join();
    for (std::thread& thread : clients) thread.join();
    CHECK(refused);
    link.reset();
    CHECK(keepers == 0);
  }
}

// Drops the last reference to a link on the link's own thread.
class Dropper : public Keeper {
 public:
  Dropper(std::shared_ptr<Link> link, std::atomic<bool>& gone)
      : Keeper(true), link_(std::move(link)), gone_(gone) {}
  ~Dropper() override {
    link_.reset();
    gone_ = true;
  }
  void OnEnd(const std::shared_ptr<Copy>& /*copy*/) override { link_->Close(); }

 private:
  std::shared_ptr<Link> link_;
  std::atomic<bool>& gone_;
};

void AKeeperMayDropTheLink() {
  const Bytes from = Random(1000, 3);
  Bytes to(from.size());
  std::atomic<bool> gone{false};
  auto link = std::make_shared<Link>(LinkOptions{});
  const auto flow = link->AddFlow("a", 1.0, false);
  auto keeper = std::make_unique<Dropper>(link, gone);
  link.reset();
  const auto copy = flow->Submit({{to.data(), from.data(), from.size()}}, std::move(keeper));
  CHECK(copy->Wait(kPatienceNs));
  while (!gone) std::this_thread::yield();
  CHECK(to == from);
}

void EveryWayToCopyCopies() {
  const Bytes from = Random(5000, 4);
  for (Stores stores : {Stores::kPlain, Stores::kNonTemporal}) {
    for (std::size_t size : {0, 1, 63, 64, 1023, 1024, 1100, 4099}) {
      for (std::size_t at : {0, 1, 63, 64, 65}) {
        Bytes to(from.size(), std::byte{0});
        CopyBytes(to.data() + at, from.data() + 3, size, stores);
        CHECK(std::memcmp(to.data() + at, from.data() + 3, size) == 0);
        for (std::size_t k = 0; k < to.size(); ++k) {
          CHECK((k >= at && k < at + size) || to[k] == std::byte{0});
        }
        // Down by 1 to 68 bytes, over its own source.
        Bytes slid = from;
        CopyBytes(slid.data() + at, slid.data() + at + 1 + size % 68, size, stores);
        CHECK(std::memcmp(slid.data() + at, from.data() + at + 1 + size % 68, size) == 0);
      }
    }
  }
  for (const CopyRate& rate : MeasureCopies(100'000, 2, 4096, 2)) CHECK(rate.bytes_per_s > 0);
}

}  // namespace
}  // namespace missile

int main() {
  missile::EveryWayToCopyCopies();
  missile::ChunksDoNotAllocate();
  missile::ManyThreadsAskCancelAndClose(missile::Stores::kPlain);
  missile::ManyThreadsAskCancelAndClose(missile::Stores::kNonTemporal);
  missile::ALinkIsClosedInTheMiddle();
  missile::AKeeperMayDropTheLink();
  std::puts("link_test: all held");
}
