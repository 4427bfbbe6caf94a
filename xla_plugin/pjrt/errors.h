// Errors of the wrapper's own, beside those of the wrapped plugin.
#pragma once

#include <string>

#include "api.h"
#include "table.h"

namespace missile::pjrt {

// An error for the caller, who ends it.
Error* MakeError(Code code, std::string message);

// A caller's error passes through the table, so its slots have to tell whose it is.
void OverrideErrors(Table* table);

}  // namespace missile::pjrt
