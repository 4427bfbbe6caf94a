#include "granule_pages.h"

#include <algorithm>
#include <utility>

namespace missile {
namespace {

constexpr std::uint32_t kBits = 64;

}  // namespace

GranulePages::GranulePages(std::shared_ptr<const ChannelMap> map)
    : map_(std::move(map)),
      words_((map_->granules_per_page() + kBits - 1) / kBits),
      pages_(map_->pages()),
      free_bits_(map_->pages() * words_),
      free_on_page_(map_->pages() * map_->channels()),
      free_of_(map_->channels()),
      used_of_(map_->channels()),
      links_((map_->pages() + 1) * map_->channels(), {End(), End()}) {}

GranulePages::~GranulePages() {
  for (std::size_t page = 0; page < pages_.size(); ++page) {
    if (Has(page)) pages_[page].block->Unpin();
  }
}

std::uint64_t GranulePages::FreeIn(const Channels& channels) const {
  std::uint64_t sum = 0;
  for (const std::uint8_t channel : channels) sum += free_of_[channel];
  return sum;
}

std::uint32_t GranulePages::ChannelOf(std::uint32_t granule) const {
  return map_->page(PageOf(granule)).channel[map_->PlaceOf(granule)];
}

bool GranulePages::IsFree(std::uint32_t granule) const {
  const std::size_t page = PageOf(granule);
  const std::uint32_t rank = map_->page(page).rank[map_->PlaceOf(granule)];
  return (free_bits_[page * words_ + rank / kBits] >> (rank % kBits) & 1U) != 0;
}

void GranulePages::Add(std::size_t page, std::unique_ptr<Block> block) {
  pages_[page].block = std::move(block);
  ++count_;
  const std::uint32_t granules = map_->granules_per_page();
  for (std::size_t word = 0; word < words_; ++word) {
    const std::uint64_t bits = granules - word * kBits;
    free_bits_[page * words_ + word] =
        bits >= kBits ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
  }
  const std::vector<std::uint32_t>& first = map_->page(page).first;
  for (std::uint32_t channel = 0; channel < map_->channels(); ++channel) {
    free_on_page_[page * map_->channels() + channel] = first[channel + 1] - first[channel];
  }
  pages_[page].closed = true;
  Open(page);
}

std::unique_ptr<Block> GranulePages::Remove(std::size_t page) {
  if (!pages_[page].closed) Close(page);
  pages_[page].closed = false;
  --count_;
  pages_[page].block->Unpin();
  return std::move(pages_[page].block);
}

void GranulePages::PutIn(std::size_t page, std::uint32_t channel, bool last) {
  const auto own = static_cast<std::uint32_t>(page);
  Link& end = LinkOf(End(), channel);
  Link& link = LinkOf(page, channel);
  link = last ? Link{end.before, End()} : Link{End(), end.behind};
  LinkOf(link.before, channel).behind = own;
  LinkOf(link.behind, channel).before = own;
}

void GranulePages::TakeOut(std::size_t page, std::uint32_t channel) {
  const Link link = LinkOf(page, channel);
  LinkOf(link.before, channel).behind = link.behind;
  LinkOf(link.behind, channel).before = link.before;
}

void GranulePages::Close(std::size_t page) {
  pages_[page].closed = true;
  for (std::uint32_t channel = 0; channel < map_->channels(); ++channel) {
    const std::uint32_t free = free_on_page_[page * map_->channels() + channel];
    free_of_[channel] -= free;
    if (free > 0) TakeOut(page, channel);
  }
}

void GranulePages::Open(std::size_t page) {
  pages_[page].closed = false;
  for (std::uint32_t channel = 0; channel < map_->channels(); ++channel) {
    const std::uint32_t free = free_on_page_[page * map_->channels() + channel];
    free_of_[channel] += free;
    // Last, so that pages which are in use already fill up first.
    if (free > 0) PutIn(page, channel, true);
  }
}

void GranulePages::Share(const Channels& channels, std::uint64_t count,
                         const std::vector<std::uint64_t>& held) {
  shares_.resize(channels.size());
  // Channels that hold less than `level` take up to it.
  auto fill = [&](std::uint64_t level) {
    std::uint64_t sum = 0;
    for (std::size_t index = 0; index < channels.size(); ++index) {
      const std::uint64_t has = held.empty() ? 0 : held[index];
      shares_[index] = level > has ? std::min(level - has, free_of_[channels[index]]) : 0;
      sum += shares_[index];
    }
    return sum;
  };
  std::uint64_t low = 0;
  std::uint64_t high = count + 1;
  for (const std::uint64_t has : held) high = std::max(high, has + count + 1);
  while (high - low > 1) {  // fill(low) <= count always holds.
    const std::uint64_t middle = low + (high - low) / 2;
    (fill(middle) <= count ? low : high) = middle;
  }
  std::uint64_t left = count - fill(low);
  for (std::size_t step = 0; left > 0 && step < channels.size(); ++step) {
    const std::size_t index = (turn_ + step) % channels.size();
    const std::uint64_t has = held.empty() ? 0 : held[index];
    if (has > low || shares_[index] == free_of_[channels[index]]) continue;
    ++shares_[index];
    --left;
  }
}

void GranulePages::DrawOne(std::uint32_t channel, std::uint64_t count, std::uint32_t* drawn) {
  free_of_[channel] -= count;
  used_of_[channel] += count;
  while (count > 0) {
    const std::size_t page = LinkOf(End(), channel).behind;
    const PageColours& colours = map_->page(page);
    std::uint64_t* bits = &free_bits_[page * words_];
    std::uint32_t& free = free_on_page_[page * map_->channels() + channel];
    const auto taken = static_cast<std::uint32_t>(std::min<std::uint64_t>(count, free));
    const auto base = static_cast<std::uint32_t>(page * map_->granules_per_page());
    const std::uint32_t last = colours.first[channel + 1];
    std::uint32_t left = taken;
    for (std::uint32_t word = colours.first[channel] / kBits; left > 0; ++word) {
      std::uint64_t among = bits[word];
      const std::uint32_t start = word * kBits;
      if (start < colours.first[channel])
        among &= ~std::uint64_t{0} << colours.first[channel] % kBits;
      if (start + kBits > last) among &= (std::uint64_t{1} << last % kBits) - 1;
      for (; among != 0 && left > 0; --left) {
        const auto bit = static_cast<std::uint32_t>(__builtin_ctzll(among));
        among &= among - 1;
        bits[word] &= ~(std::uint64_t{1} << bit);
        *drawn++ = base + colours.sorted[start + bit];
      }
    }
    free -= taken;
    count -= taken;
    pages_[page].used += taken;
    if (free == 0) TakeOut(page, channel);
  }
}

void GranulePages::Draw(const Channels& channels, std::uint64_t count,
                        const std::vector<std::uint64_t>& held, std::vector<std::uint32_t>* drawn) {
  Share(channels, count, held);
  std::size_t index = turn_ % channels.size();
  turn_ += count;
  drawn_.resize(count);
  next_.clear();
  std::size_t filled = 0;
  for (std::size_t at = 0; at < channels.size(); ++at) {
    next_.push_back(filled);
    if (shares_[at] > 0) DrawOne(channels[at], shares_[at], &drawn_[filled]);
    filled += shares_[at];
  }
  const std::size_t before = drawn->size();
  drawn->resize(before + count);
  std::uint32_t* out = drawn->data() + before;
  for (const std::uint32_t* end = out + count; out != end;
       index = index + 1 == channels.size() ? 0 : index + 1) {
    if (shares_[index] == 0) continue;
    *out++ = drawn_[next_[index]++];
    --shares_[index];
  }
}

bool GranulePages::Return(std::uint32_t granule) {
  const std::size_t page = PageOf(granule);
  const PageColours& colours = map_->page(page);
  const std::uint32_t within = map_->PlaceOf(granule);
  const std::uint32_t rank = colours.rank[within];
  const std::uint32_t channel = colours.channel[within];
  free_bits_[page * words_ + rank / kBits] |= std::uint64_t{1} << (rank % kBits);
  --used_of_[channel];
  const bool first = free_on_page_[page * map_->channels() + channel]++ == 0;
  if (!pages_[page].closed) {
    ++free_of_[channel];
    if (first) PutIn(page, channel, false);
  }
  return --pages_[page].used == 0;
}

void GranulePages::Check() const {
  std::size_t here = 0;
  std::vector<std::uint64_t> free_of(map_->channels());
  std::vector<std::uint64_t> used_of(map_->channels());
  std::vector<std::uint64_t> lists(map_->channels());
  for (std::size_t page = 0; page < pages_.size(); ++page) {
    if (!Has(page)) continue;
    ++here;
    const PageColours& colours = map_->page(page);
    std::uint32_t all_free = 0;
    for (std::uint32_t channel = 0; channel < map_->channels(); ++channel) {
      std::uint32_t free = 0;
      for (std::uint32_t rank = colours.first[channel]; rank < colours.first[channel + 1]; ++rank) {
        free += free_bits_[page * words_ + rank / kBits] >> (rank % kBits) & 1U;
      }
      Expect(free == free_on_page_[page * map_->channels() + channel],
             "a page's count of free granules of a channel is off");
      all_free += free;
      used_of[channel] += colours.first[channel + 1] - colours.first[channel] - free;
      if (pages_[page].closed) continue;
      free_of[channel] += free;
      lists[channel] += free > 0 ? 1 : 0;
    }
    Expect(all_free + pages_[page].used == map_->granules_per_page(),
           "a page's count of used granules is off");
    Expect(pages_[page].block->offset() == page * kPageBytes, "a coloured page has moved");
  }
  Expect(here == count_, "the count of coloured pages is off");
  Expect(used_of == used_of_, "the count of used granules of a channel is off");
  for (std::uint32_t channel = 0; channel < map_->channels(); ++channel) {
    Expect(free_of[channel] == free_of_[channel], "the count of free granules is off");
    std::uint32_t before = End();
    for (std::uint32_t page = LinkOf(before, channel).behind; page != End();
         page = LinkOf(page, channel).behind) {
      Expect(LinkOf(page, channel).before == before, "a list of pages is not linked both ways");
      Expect(
          Has(page) && free_on_page_[page * map_->channels() + channel] > 0 && lists[channel]-- > 0,
          "a list of pages has one with nothing free");
      before = page;
    }
    Expect(lists[channel] == 0, "a page with free granules is in no list");
  }
}

}  // namespace missile
