// Threads swap models through an arena on a fake CUDA device, over links to and from it, while a
// stream computes late. No Python: run under sanitizers by tests/memory/test_sanitizers.py, with
// the fake driver's path as argument. The driver's own threads copy and read, so the thread
// sanitizer sees a block that is used again too soon.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "arena.h"
#include "cuda_device.h"
#include "cuda_mover.h"
#include "cuda_region.h"
#include "link.h"
#include "no_memory.h"

namespace missile {
namespace {

constexpr std::int64_t kPatienceNs = 60'000'000'000;
constexpr std::uint64_t kArenaBytes = std::uint64_t{1} << 20;
constexpr std::size_t kChunkBytes = 16 << 10;
constexpr int kThreads = 3;
constexpr int kRounds = 60;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "cuda_test: %s\n", what);
  std::abort();
}

// What the fake driver adds for tests.
class Fake {
 public:
  explicit Fake(const char* path) : library_(dlopen(path, RTLD_NOW)) {
    Require(library_ != nullptr, "there is no fake driver");
  }

  template <typename Function>
  Function* Find(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(library_, name));
  }
  std::string Leaks() const { return Find<const char*()>("fakeLeaks")(); }
  std::string Misuse() const { return Find<const char*()>("fakeMisuse")(); }

 private:
  void* library_;
};

using Sum = CudaResult(CudaStreamHandle, CudaAddress, std::size_t, std::uint64_t*);

class Card {
 public:
  explicit Card(const char* path)
      : device(std::make_shared<const CudaDevice>(0, path)),
        arena(std::make_shared<Arena>(std::make_unique<CudaRegion>(device, kArenaBytes), 256)),
        up(Options(), Movers(Direction::kToDevice)),
        down(Options(), Movers(Direction::kToHost)) {}

  const std::shared_ptr<const CudaDevice> device;
  const std::shared_ptr<Arena> arena;
  Link up;
  Link down;

 private:
  static LinkOptions Options() {
    LinkOptions options;
    options.chunk_bytes = kChunkBytes;
    options.threads = 2;
    return options;
  }
  Link::MakeMover Movers(Direction direction) const {
    auto stream = std::make_shared<const CudaStream>(device);
    return
        [stream, direction] { return std::make_unique<CudaMover>(stream, direction, kChunkBytes); };
  }
};

// One tenant: swaps a model in, launches on a stream of its own, moves blocks, reads back.
void Serve(Card& card, Sum* sum, unsigned seed) {
  std::mt19937 random(seed);
  const CudaStream compute(card.device);
  const CudaEvent ran(card.device);
  const auto to = card.up.AddFlow(std::to_string(seed), 1.0, seed == 0);
  const auto back = card.down.AddFlow(std::to_string(seed), 1.0, seed == 0);
  const PinnedMemory pinned(card.device, std::size_t{64} << 10);
  for (int round = 0; round < kRounds; ++round) {
    const std::size_t size = 1 + random() % pinned.size_bytes();
    const auto value = static_cast<unsigned char>(1 + random() % 255);
    std::vector<std::byte> loose(size, std::byte{value});
    std::fill_n(pinned.data(), size, std::byte{value});
    const std::unique_ptr<Block> block = card.arena->Allocate(size, nullptr);
    if (block == nullptr) continue;
    block->Pin();
    std::byte* at = block->address();
    const std::byte* source = random() % 2 == 0 ? loose.data() : pinned.data();
    Require(to->Submit({{at, source, size}}, nullptr)->Wait(kPatienceNs), "a copy did not end");
    block->Unpin();
    if (random() % 4 == 0) card.arena->Compact();

    block->Pin();
    DropView(block->MakeView(0, size).Take());  // As XLA, before the launch has run.
    std::uint64_t total = 0;
    {
      const CudaScope scope(*card.device);
      const auto address = reinterpret_cast<std::uintptr_t>(block->address());
      Require(sum(compute.handle(), address, size, &total) == 0, "a launch failed");
      ran.Record(compute);
    }
    const auto copy = back->Submit({{loose.data(), block->address(), size}}, nullptr);
    block->Release();
    {
      const CudaScope scope(*card.device);
      ran.Wait();
    }
    Require(copy->Wait(kPatienceNs) && copy->error().empty(), "a copy back failed");
    block->Unpin();
    Require(total == std::uint64_t{value} * size, "a launch read another model");
    Require(loose == std::vector<std::byte>(size, std::byte{value}), "the bytes are others");
  }
}

void ManyTenantsShareACard(const char* path, Sum* sum) {
  Card card(path);
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < kThreads; ++seed) {
    threads.emplace_back([&, seed] { Serve(card, sum, seed); });
  }
  for (std::thread& thread : threads) thread.join();
  card.arena->Check();
  const ArenaStats stats = card.arena->Stats();
  Require(stats.allocations > 0 && stats.used_bytes == 0, "a block was not freed");
}

void ALinkIsClosedInTheMiddle(const char* path) {
  Card card(path);
  const std::unique_ptr<Block> block = card.arena->Allocate(kArenaBytes, nullptr);
  const std::vector<std::byte> source(kArenaBytes);
  const auto flow = card.up.AddFlow("a", 1.0, false);
  const auto copy = flow->Submit({{block->address(), source.data(), kArenaBytes}}, nullptr);
  card.up.Close();
  Require(copy->Wait(0), "a closed link left a copy");
}

void FailuresLeaveNothing(const char* path, const Fake& fake) {
  auto* fail = fake.Find<void(const char*, int, CudaResult)>("fakeFail");
  for (const char* call : {"cuStreamCreate", "cuEventCreate", "cuMemAlloc_v2", "cuMemHostAlloc"}) {
    for (int nth : {1, 2}) {
      fail(call, nth, 2);
      try {
        Card card(path);
        Require(std::string(call) == "cuMemAlloc_v2" && nth == 2, "a failure went unseen");
      } catch (const NoMemory& error) {
        Require(std::string(error.what()).find(call) == 0, "an error names another call");
      }
      fail(call, 0, 0);
      Require(fake.Leaks().empty(), "a failure left something");
    }
  }
}

}  // namespace
}  // namespace missile

int main(int argc, char** argv) {
  missile::Require(argc == 2, "its argument is the fake driver's path");
  const missile::Fake fake(argv[1]);
  missile::ManyTenantsShareACard(argv[1], fake.Find<missile::Sum>("fakeSum"));
  missile::ALinkIsClosedInTheMiddle(argv[1]);
  missile::FailuresLeaveNothing(argv[1], fake);
  missile::Require(fake.Leaks().empty(), "something was not given back");
  missile::Require(fake.Misuse().empty(), "the driver was misused");
  std::puts("cuda_test: all held, on the fake CUDA driver");
  return 0;
}
