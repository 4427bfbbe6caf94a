#include "view_set.h"

#include <algorithm>
#include <mutex>
#include <utility>

namespace missile {

ViewSet::ViewSet(const Block& block, std::shared_ptr<const ViewLayout> layout,
                 const ViewList& views)
    : arena_(block.arena_), layout_(std::move(layout)), offset_(block.offset()) {
  for (View* view = views.first(); view != nullptr; view = view->next) views_.push_back(view);
  std::lock_guard lock(arena_->mutex_);
  for (View* view : views_) view->set = this;
}

ViewSet::~ViewSet() {
  std::lock_guard lock(arena_->mutex_);
  for (View* view : views_) view->set = nullptr;
}

void ViewSet::Lose(View* view) {
  views_.erase(std::find(views_.begin(), views_.end(), view));
  whole_ = false;
}

bool ViewSet::Park() {
  std::lock_guard lock(arena_->mutex_);
  if (!whole_ || parked_) return false;
  parked_ = true;
  if (views_.empty()) return true;
  BlockRecord* block = views_.front()->block;
  for (View* view : views_) view->block = nullptr;
  block->views -= views_.size();
  arena_->stats_.views -= views_.size();
  arena_->stats_.parked_views += views_.size();
  arena_->FreeIfUnused(block);
  return true;
}

bool ViewSet::Attach(const Block& block) {
  layout_->CheckFits(block.size_bytes(), arena_->alignment());
  Arena::Lock lock(arena_->mutex_);
  BlockRecord* record = block.record_;
  arena_->WaitForMove(lock, record);
  Arena::ExpectUsable(record, "viewed");
  if (!whole_ || !parked_ || block.arena_ != arena_ || record->span->offset != offset_) {
    return false;
  }
  parked_ = false;
  for (View* view : views_) view->block = record;
  record->views += views_.size();
  arena_->stats_.views += views_.size();
  arena_->stats_.parked_views -= views_.size();
  return true;
}

}  // namespace missile
