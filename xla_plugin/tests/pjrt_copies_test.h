// Copies that the plugin makes of views: to the host, a device, a memory. Part of pjrt_test.cc.
#pragma once

#include "pjrt_calls.h"

namespace missile::pjrt::test {

// The block of a view whose handle is gone is not free before a late copy has read it, by whatever
// slot it was asked for. No copy begins while it is paused.
void CheckCopies(const Plugin& plugin, Bytes bytes_of, void (*pause)(bool));

}  // namespace missile::pjrt::test
