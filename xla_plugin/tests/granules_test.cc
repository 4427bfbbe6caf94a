// Threads take, use, recolour and give back granules while others gather pages and move blocks of
// the same arena. No Python: run under sanitizers by tests/memory/test_sanitizers.py. Exits with 0
// if every owner kept its bytes and nothing was lost.
#include "granules.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace {

using missile::Arena;
using missile::Block;
using missile::ChannelMap;
using missile::Channels;
using missile::GranulePool;
using missile::Granules;

constexpr std::size_t kPages = 6;
constexpr std::uint64_t kGranuleBytes = std::uint64_t{64} << 10;
constexpr std::size_t kPerPage = missile::kPageBytes / kGranuleBytes;
constexpr std::uint32_t kChannels = 6;
constexpr int kThreads = 3;
constexpr int kSteps = 200;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "granules_test: %s\n", what);
  std::abort();
}

Channels Some(std::mt19937& random) {
  Channels channels;
  for (std::uint8_t channel = 0; channel < kChannels; ++channel) {
    if (random() % 2 == 0) channels.push_back(channel);
  }
  if (channels.empty()) channels.push_back(static_cast<std::uint8_t>(random() % kChannels));
  return channels;
}

struct Filled {
  std::unique_ptr<Granules> granules;
  unsigned char pattern;
};

// One line of each granule, under a pin.
template <typename Use>
void ForEach(const Arena& arena, const Filled& filled, const Use& use) {
  filled.granules->Pin();
  for (const std::uint32_t granule : filled.granules->table()) {
    use(arena.address() + granule * kGranuleBytes);
  }
  filled.granules->Unpin();
}

void Verify(const Arena& arena, const Filled& filled) {
  ForEach(arena, filled, [&](const std::byte* line) {
    for (int index = 0; index < 64; ++index) {
      Require(std::to_integer<unsigned char>(line[index]) == filled.pattern,
              "a granule lost its bytes");
    }
  });
}

void Use(const std::shared_ptr<Arena>& arena, const std::shared_ptr<GranulePool>& pool,
         unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Filled> mine;
  std::vector<std::unique_ptr<Block>> blocks;
  for (int step = 0; step < kSteps; ++step) {
    const unsigned what = random() % 16;
    if (what < 7 || mine.empty()) {
      auto granules = pool->Allocate((1 + random() % 12) * kGranuleBytes, Some(random));
      if (granules == nullptr) {
        mine.clear();
        continue;
      }
      mine.push_back({std::move(granules), static_cast<unsigned char>(random())});
      ForEach(*arena, mine.back(),
              [&](std::byte* line) { std::memset(line, mine.back().pattern, 64); });
      while (mine.size() > 6) mine.erase(mine.begin());
      continue;
    }
    Filled& one = mine[random() % mine.size()];
    if (what < 10) {
      Verify(*arena, one);
    } else if (what < 13) {
      pool->Recolour(*one.granules, Some(random));
    } else if (what == 13) {
      pool->Gather();
      pool->Check();
    } else if (what == 14) {
      if (auto block = arena->Allocate(1 + random() % (missile::kPageBytes / 2), nullptr)) {
        blocks.push_back(std::move(block));
      }
      if (blocks.size() > 2) blocks.erase(blocks.begin());
    } else {
      arena->Compact();
      arena->Check();
    }
  }
  for (const Filled& filled : mine) Verify(*arena, filled);
}

}  // namespace

int main() {
  std::vector<std::uint8_t> colours(kPages * kPerPage);
  for (std::size_t index = 0; index < colours.size(); ++index) {
    colours[index] = static_cast<std::uint8_t>((index + index / kPerPage) % kChannels);
  }
  auto arena = std::make_shared<Arena>(kPages * missile::kPageBytes, 64, false, false);
  auto map = std::make_shared<const ChannelMap>(colours.data(), kPages, kPerPage, kGranuleBytes,
                                                kChannels);
  auto pool = std::make_shared<GranulePool>(arena, std::move(map));
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (unsigned seed = 0; seed < kThreads; ++seed) {
    threads.emplace_back([&, seed] { Use(arena, pool, seed); });
  }
  for (std::thread& thread : threads) thread.join();
  pool->Check();
  arena->Check();
  const missile::GranuleStats stats = pool->Stats();
  Require(stats.live == 0 && stats.waiting == 0 && stats.pins == 0, "an owner is left");
  Require(stats.pages == 0, "a page was not given back");
  Require(stats.moved_granules > 0, "nothing was ever moved");
  Require(arena->Stats().largest_free_bytes == kPages * missile::kPageBytes,
          "the arena is not whole again");
  std::printf("%llu owners, %llu granules moved\n",
              static_cast<unsigned long long>(stats.allocations),
              static_cast<unsigned long long>(stats.moved_granules));
  return 0;
}
