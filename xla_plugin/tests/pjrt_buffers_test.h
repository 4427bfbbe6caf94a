// What becomes of buffers that come by other ways than a plain upload. Part of pjrt_test.cc.
#pragma once

#include "pjrt_calls.h"

namespace missile::pjrt::test {

// A transfer manager's buffers are charged from when it is made until each has ended.
void CheckTransfers(const Plugin& plugin, Bytes bytes_of);
// A launch that took an alias before it was fulfilled reads the view that it came to show, whose
// handle, like the alias's, is gone by then. No launch begins its work while it is paused.
void CheckAliases(const Plugin& plugin, Bytes bytes_of, void (*pause)(bool));
// Uploads that pass through are counted by their reason.
void CheckCounts(const Plugin& plugin);

}  // namespace missile::pjrt::test
