// The views of one layout at one place, which outlast the block that they were made of.
//
// To make an array of a view takes some microseconds, and a model that is swapped in has hundreds.
// So the arrays of a model that leaves may be parked: they count for no block, and nobody may use
// them. When a block comes to lie at the same place, whatever its bytes, they are attached to it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "arena.h"

namespace missile {

// All but the constructor are safe on any thread, and need no GIL. Not to be moved: views lead
// back.
class ViewSet {
 public:
  // Views that MakeViews() of `block` has made, still in their list.
  ViewSet(const Block& block, std::shared_ptr<const ViewLayout> layout, const ViewList& views);
  ~ViewSet();
  ViewSet(const ViewSet&) = delete;
  ViewSet& operator=(const ViewSet&) = delete;

  // Where the views lie, in bytes from the arena's start.
  std::uint64_t offset() const { return offset_; }
  // Takes the views off their block, which then does not wait for them. The caller has made sure
  // that nobody else can reach what was made of them. Returns false, and does nothing, if one of
  // them has ended, or they are parked already.
  bool Park();
  // Counts the views for `block`, which holds and keeps it in its place as when they were new.
  // Returns false, and does nothing, if it lies elsewhere, or they are not parked. Throws what
  // Block::MakeViews does.
  bool Attach(const Block& block);

 private:
  friend class Arena;

  // Under the arena's lock: a view has ended.
  void Lose(View* view);

  std::shared_ptr<Arena> arena_;
  std::shared_ptr<const ViewLayout> layout_;
  std::vector<View*> views_;
  std::uint64_t offset_;
  bool whole_ = true;
  bool parked_ = false;
};

}  // namespace missile
