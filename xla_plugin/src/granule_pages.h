// The granules of pages that were given over to colouring: which are free, by channel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "arena.h"
#include "channel_map.h"

namespace missile {

// A granule's number is its offset in the arena, in granules. Knows no lock: its owner has one.
class GranulePages {
 public:
  explicit GranulePages(std::shared_ptr<const ChannelMap> map);
  ~GranulePages();
  GranulePages(const GranulePages&) = delete;
  GranulePages& operator=(const GranulePages&) = delete;

  const ChannelMap& map() const { return *map_; }
  std::size_t count() const { return count_; }
  std::uint64_t FreeIn(const Channels& channels) const;
  std::uint64_t free_of(std::uint32_t channel) const { return free_of_[channel]; }
  std::uint32_t ChannelOf(std::uint32_t granule) const;
  std::uint64_t used_of(std::uint32_t channel) const { return used_of_[channel]; }
  std::size_t PageOf(std::uint32_t granule) const { return map_->PageOf(granule); }
  // Granules in use on a page, and whether it is here.
  std::uint32_t UsedOn(std::size_t page) const { return pages_[page].used; }
  bool Has(std::size_t page) const { return pages_[page].block != nullptr; }
  bool IsClosed(std::size_t page) const { return pages_[page].closed; }
  bool IsFree(std::uint32_t granule) const;

  // Takes a page over. It lies at `page` pages from the arena's start.
  void Add(std::size_t page, std::unique_ptr<Block> block);
  // Gives back a page of which nothing is used.
  std::unique_ptr<Block> Remove(std::size_t page);
  // Draws granules, of which there must be `count` free ones. They are shared out so that, with the
  // `held` of each channel ([channels.size()], or empty), every channel comes to as many as it has
  // room for, and follow each other in turns as the channels do.
  void Draw(const Channels& channels, std::uint64_t count, const std::vector<std::uint64_t>& held,
            std::vector<std::uint32_t>* drawn);
  // Returns whether the page has no used granule left.
  bool Return(std::uint32_t granule);
  // A closed page's free granules are not drawn.
  void Close(std::size_t page);
  void Open(std::size_t page);
  // Throws std::runtime_error unless lists, bits and counts agree with each other.
  void Check() const;

 private:
  struct Page {
    std::unique_ptr<Block> block;
    std::uint32_t used = 0;
    bool closed = false;
  };
  // Neighbours in the list of pages that have free granules of one channel.
  struct Link {
    std::uint32_t before;
    std::uint32_t behind;
  };

  // The end of every list; it is in the place of a page.
  std::uint32_t End() const { return static_cast<std::uint32_t>(map_->pages()); }
  Link& LinkOf(std::size_t page, std::uint32_t channel) {
    return links_[page * map_->channels() + channel];
  }
  const Link& LinkOf(std::size_t page, std::uint32_t channel) const {
    return links_[page * map_->channels() + channel];
  }
  void PutIn(std::size_t page, std::uint32_t channel, bool last);
  void TakeOut(std::size_t page, std::uint32_t channel);
  // Sets `shares_`: how many of each channel make the counts as even as they can be.
  void Share(const Channels& channels, std::uint64_t count, const std::vector<std::uint64_t>& held);
  void DrawOne(std::uint32_t channel, std::uint64_t count, std::uint32_t* drawn);

  const std::shared_ptr<const ChannelMap> map_;
  const std::size_t words_;
  std::size_t count_ = 0;
  std::vector<Page> pages_;
  std::vector<std::uint64_t> free_bits_;     // [pages, words], by rank
  std::vector<std::uint32_t> free_on_page_;  // [pages, channels]
  std::vector<std::uint64_t> free_of_;       // [channels], of open pages
  std::vector<std::uint64_t> used_of_;       // [channels], of all pages
  std::vector<Link> links_;                  // [pages + 1, channels]
  // The channel whose turn it is to have one more than the others.
  std::uint64_t turn_ = 0;
  // Of one draw, kept so that the heap is not asked each time.
  std::vector<std::uint64_t> shares_;  // [channels of the draw], what is still to come
  std::vector<std::size_t> next_;      // [channels of the draw], into `drawn_`
  std::vector<std::uint32_t> drawn_;   // By channel
};

}  // namespace missile
