#include "options.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

namespace missile::pjrt {
namespace {

[[noreturn]] void Refuse(const std::string& name, const std::string& value, const char* allowed) {
  throw std::invalid_argument("option " + name + " is '" + value + "', and must be " + allowed);
}

double ParseNumber(const std::string& name, const std::string& text, bool zero) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const bool read = !text.empty() && *end == '\0';
  if (!read || !std::isfinite(number) || number < 0 || (number == 0 && !zero)) {
    Refuse(name, text, zero ? "a number, 0 or more" : "a number greater than 0");
  }
  return number;
}

}  // namespace

std::uint64_t ParseBytes(const std::string& text) {
  struct Unit {
    std::string_view name;
    std::uint64_t bytes;
  };
  static constexpr Unit kUnits[] = {
      {"KiB", std::uint64_t{1} << 10},
      {"MiB", std::uint64_t{1} << 20},
      {"GiB", std::uint64_t{1} << 30},
      {"TiB", std::uint64_t{1} << 40},
      {"KB", 1'000},
      {"MB", 1'000'000},
      {"GB", 1'000'000'000},
      {"TB", 1'000'000'000'000},
      {"B", 1},
      {"", 1},
  };
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string_view rest(end);
  if (end != text.c_str() && std::isfinite(number) && number >= 0) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    for (const Unit& unit : kUnits) {
      if (rest != unit.name) continue;
      const double bytes = number * static_cast<double>(unit.bytes);
      if (bytes < 9e18) return static_cast<std::uint64_t>(bytes);
    }
  }
  throw std::invalid_argument("'" + text + "' is no size such as 512MiB, 2GiB or 1000000");
}

Options ReadOptions(const Lookup& lookup) {
  Options options;
  auto bytes = [&](const char* name, std::uint64_t* to) {
    if (const std::string* text = lookup(name)) {
      try {
        *to = ParseBytes(*text);
      } catch (const std::invalid_argument&) {
        Refuse(name, *text, "a size such as 512MiB, 2GiB or 1000000");
      }
    }
  };
  options.tenant = std::to_string(getpid());
  if (const std::string* text = lookup("TENANT")) {
    if (text->empty() || text->size() > 64) Refuse("TENANT", *text, "a name of 1 to 64 bytes");
    options.tenant = *text;
  }
  if (const std::string* text = lookup("CLASS")) {
    if (*text != "latency" && *text != "best_effort") {
      Refuse("CLASS", *text, "latency or best_effort");
    }
    if (*text == "latency") options.service_class = ServiceClass::kLatency;
  }
  if (const std::string* text = lookup("WEIGHT")) {
    options.weight = ParseNumber("WEIGHT", *text, false);
  }
  bytes("MEMORY", &options.memory_bytes);
  bytes("ARENA", &options.arena_bytes);
  if (const std::string* text = lookup("LAUNCHES")) {
    const double launches = ParseNumber("LAUNCHES", *text, false);
    if (launches != std::floor(launches) || launches > 1e6) {
      Refuse("LAUNCHES", *text, "a whole number from 1 to 1000000");
    }
    options.launches = static_cast<int>(launches);
  }
  if (const std::string* text = lookup("TIMEOUT_S")) {
    options.timeout_s = ParseNumber("TIMEOUT_S", *text, true);
  }
  if (const std::string* text = lookup("ARBITER")) options.arbiter = *text;
  auto flag = [&](const char* name, bool* to) {
    if (const std::string* text = lookup(name)) {
      if (*text != "0" && *text != "1") Refuse(name, *text, "0 or 1");
      *to = *text == "1";
    }
  };
  flag("IDLE", &options.idle_threads);
  flag("STATISTICS", &options.statistics);
  return options;
}

}  // namespace missile::pjrt
