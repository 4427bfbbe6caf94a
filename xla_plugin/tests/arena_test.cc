// Four threads use one arena in every way at once. No Python: run under sanitizers by
// tests/memory/test_sanitizers.py. Exits with 0 if every block kept its bytes and nothing was lost.
#include "arena.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "view_set.h"

namespace {

using missile::Arena;
using missile::Block;
using missile::BlockState;
using missile::ColourSet;
using missile::DLManagedTensor;
using missile::View;
using missile::ViewLayout;
using missile::ViewList;
using missile::ViewSet;

constexpr std::uint64_t kArenaBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kLargestBlock = std::uint64_t{96} << 10;
constexpr int kThreads = 4;
constexpr int kSteps = 4000;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "arena_test: %s\n", what);
  std::abort();
}

struct Filled {
  std::unique_ptr<Block> block;
  unsigned char pattern;
};

// Under a pin, without which another thread may move the block.
void Fill(const Filled& filled) {
  filled.block->Pin();
  std::memset(filled.block->address(), filled.pattern, filled.block->size_bytes());
  filled.block->Unpin();
}

bool Holds(const std::byte* bytes, std::uint64_t size_bytes, unsigned char pattern) {
  for (std::uint64_t index = 0; index < size_bytes; ++index) {
    if (std::to_integer<unsigned char>(bytes[index]) != pattern) return false;
  }
  return true;
}

void Verify(const Filled& filled) {
  filled.block->Pin();
  Require(Holds(filled.block->address(), filled.block->size_bytes(), filled.pattern),
          "a block lost its bytes");
  filled.block->Unpin();
}

// Tensors on their way from the thread that made them to one that ends them.
class Handover {
 public:
  void Put(DLManagedTensor* tensor, unsigned char pattern) {
    std::lock_guard lock(mutex_);
    tensors_.push_back({tensor, pattern});
  }
  // Ends the oldest if there are more than `kept`. Its block has been released long ago.
  bool EndOne(std::size_t kept) {
    Tensor oldest{};
    {
      std::lock_guard lock(mutex_);
      if (tensors_.size() <= kept) return false;
      oldest = tensors_.front();
      tensors_.pop_front();
    }
    const missile::DLTensor& tensor = oldest.managed->dl_tensor;
    Require(tensor.ndim == 2 && tensor.shape[1] == 4, "a view lost its shape");
    Require(Holds(static_cast<std::byte*>(tensor.data), tensor.shape[0] * 4U, oldest.pattern),
            "a view lost its bytes");
    oldest.managed->deleter(oldest.managed);
    return true;
  }

  // Parks the views of a block that is about to be released.
  void Leave(const Block& block, ViewList views, std::shared_ptr<const ViewLayout> layout) {
    // Another thread may move it before its views are parked, which then wait elsewhere.
    Parked parked{std::make_unique<ViewSet>(block, std::move(layout), views), {}, block.offset()};
    while (views.first() != nullptr) parked.tensors.push_back(&views.Take()->managed);
    Require(parked.set->Park(), "views that nobody else has were not parked");
    Return(std::move(parked));
  }
  // Where those that meet the next block wait, if there are any.
  std::vector<std::uint64_t> Places() {
    std::lock_guard lock(mutex_);
    if (parked_.empty()) return {};
    return {parked_.front().offset};
  }
  // Lets parked views show a block, if they lie where it does. Some end, some are left again.
  void Meet(const Block& block, unsigned char pattern, bool end) {
    Parked parked{};
    {
      std::lock_guard lock(mutex_);
      if (parked_.empty()) return;
      parked = std::move(parked_.front());
      parked_.pop_front();
    }
    if (parked.set->Attach(block)) {
      ++met_;
      for (DLManagedTensor* tensor : parked.tensors) {
        Require(Holds(static_cast<std::byte*>(tensor->dl_tensor.data), 12, pattern),
                "a parked view shows other bytes");
      }
      if (!end) Require(parked.set->Park(), "attached views were not parked");
    }
    if (end) {
      End(&parked);
    } else {
      Return(std::move(parked));
    }
  }
  // How often views met a block in their place.
  int EndParked() {
    for (Parked& parked : parked_) End(&parked);
    parked_.clear();
    return met_;
  }

 private:
  struct Parked {
    std::unique_ptr<ViewSet> set;
    std::vector<DLManagedTensor*> tensors;
    std::uint64_t offset;
  };
  static void End(Parked* parked) {
    // The set may go before its views or behind them.
    if (parked->tensors.front()->dl_tensor.shape[0] == 3) parked->set.reset();
    for (DLManagedTensor* tensor : parked->tensors) tensor->deleter(tensor);
    parked->tensors.clear();
  }
  void Return(Parked parked) {
    std::lock_guard lock(mutex_);
    parked_.push_back(std::move(parked));
  }
  struct Tensor {
    DLManagedTensor* managed;
    unsigned char pattern;
  };
  std::mutex mutex_;
  std::deque<Tensor> tensors_;
  std::deque<Parked> parked_;
  std::atomic<int> met_ = 0;
};

void Use(const std::shared_ptr<Arena>& arena, Handover& handover, unsigned seed) {
  std::mt19937 random(seed);
  auto layout = std::make_shared<const ViewLayout>(std::vector<missile::ViewEntry>{
      {0, {16, 4}, {missile::kDLUInt, 8, 1}}, {64, {3, 4}, {missile::kDLUInt, 8, 1}}});
  std::vector<Filled> mine;
  auto any = [&]() -> Filled& { return mine[random() % mine.size()]; };
  for (int step = 0; step < kSteps; ++step) {
    unsigned what = random() % 16;
    if (what < 6 || mine.empty()) {
      std::uint64_t size_bytes = 128 + random() % (random() % 4 == 0 ? kLargestBlock : 2048);
      const Block* near = mine.empty() ? nullptr : any().block.get();
      std::vector<std::uint64_t> places;
      switch (random() % 4) {
        case 0:
          places = {64 * (random() % 64), 64 * (64 + random() % 1024)};
          break;
        case 1:
          places = handover.Places();
          break;
        default:
          break;
      }
      std::unique_ptr<Block> block = arena->Allocate(size_bytes, near, ColourSet(), places);
      if (block != nullptr) {
        mine.push_back({std::move(block), static_cast<unsigned char>(random())});
        Fill(mine.back());
      }
      // Full: room for the next ones.
      while (mine.size() > 24) mine.pop_back();
      if (random() % 2 == 0 && !mine.empty()) {
        handover.Meet(*mine.back().block, mine.back().pattern, random() % 8 == 0);
      }
    } else if (what < 9) {
      std::swap(any(), mine.back());
      Filled last = std::move(mine.back());
      mine.pop_back();
      Verify(last);
      ViewList views = last.block->MakeViews(layout);
      if (random() % 4 == 0) {
        handover.Leave(*last.block, std::move(views), layout);
        last.block->Release();
        continue;
      }
      // One is handed to whichever thread comes by, one is dropped here, before or after release.
      handover.Put(&views.Take()->managed, last.pattern);
      if (random() % 2 == 0) DropView(views.Take());
      last.block->Release();
      Require(last.block->state() != BlockState::kLive, "a released block is live");
    } else if (what < 12) {
      Verify(any());
    } else if (what < 14) {
      handover.EndOne(4);
    } else if (what == 14) {
      arena->Move(*any().block);
    } else if (step % 64 == 0) {
      arena->Compact();
      arena->Check();
    }
  }
  for (const Filled& filled : mine) Verify(filled);
}

// A block has all colours. Who may not have all gets none, and it is counted.
void CheckColours() {
  auto arena = std::make_shared<Arena>(4096, 64, false, false);
  Require(ColourSet().all() && arena->Allocate(256, nullptr, ColourSet()) != nullptr,
          "a block of all colours was refused");
  for (const ColourSet& some : {ColourSet({0}), ColourSet({0, 1, 5})}) {
    Require(!some.all() && arena->Allocate(256, nullptr, some) == nullptr,
            "a block was given to an owner that may not have all colours");
  }
  const missile::ArenaStats stats = arena->Stats();
  Require(stats.allocations == 1 && stats.failures == 2 && stats.live_blocks == 0,
          "blocks that were refused for their colours were not counted");
  for (const missile::Channels& wrong : {missile::Channels{}, missile::Channels{1, 1}}) {
    std::string said;
    try {
      said = std::to_string(ColourSet(wrong).named().size()) + " were taken";
    } catch (const std::invalid_argument& error) {
      said = error.what();
    }
    Require(said.find("colours: ") == 0, said.c_str());
  }
}

}  // namespace

int main() {
  CheckColours();
  auto arena = std::make_shared<Arena>(kArenaBytes, 64, true, true);
  Handover handover;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (unsigned seed = 0; seed < kThreads; ++seed) {
    threads.emplace_back([&, seed] { Use(arena, handover, seed); });
  }
  for (std::thread& thread : threads) thread.join();
  while (handover.EndOne(0)) {
  }
  const int met = handover.EndParked();
  Require(met > 0, "parked views never met a block in their place");
  arena->Check();
  missile::ArenaStats stats = arena->Stats();
  Require(stats.live_blocks == 0 && stats.waiting_blocks == 0, "a block was not freed");
  Require(stats.views == 0 && stats.pins == 0, "a view or a pin is left");
  Require(stats.largest_free_bytes == kArenaBytes, "the region is not whole again");
  Require(stats.moved_bytes > 0, "nothing was ever moved");
  Require(stats.native_allocations == 0, "the heap was asked while in use");

  // The last view keeps the region when nobody else does.
  auto alone = std::make_shared<Arena>(4096, 64, false, false);
  std::unique_ptr<Block> block = alone->Allocate(256, nullptr);
  ViewList views = block->MakeView(0, 256);
  auto* bytes = static_cast<unsigned char*>(views.first()->managed.dl_tensor.data);
  block.reset();
  alone.reset();
  std::memset(bytes, 7, 256);
  std::printf("%llu blocks, %llu bytes moved, %d times views met a block\n",
              static_cast<unsigned long long>(stats.allocations),
              static_cast<unsigned long long>(stats.moved_bytes), met);
  return 0;
}
