// libFuzzer for a target that GCC compiled. Clang's -fsanitize=fuzzer links it and marks the code's
// edges for it; GCC only calls a function at each edge (-fsanitize-coverage=trace-pc). The runtime
// is libclang_rt.fuzzer_no_main.a; link with -Wl,--wrap=__sanitizer_cov_trace_pc.
#include <cstddef>
#include <cstdint>

extern "C" {
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
int LLVMFuzzerRunDriver(int* argc, char*** argv,
                        int (*target)(const std::uint8_t* data, std::size_t size));
void __sanitizer_cov_8bit_counters_init(std::uint8_t* begin, std::uint8_t* end);
}

namespace {
// Edges share one now and then; there are a few thousand of them.
std::uint8_t counters[1 << 16];
}  // namespace

// Not itself instrumented, or it would call itself.
extern "C" __attribute__((no_sanitize_coverage)) void __wrap___sanitizer_cov_trace_pc() {
  const auto edge = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0));
  ++counters[(edge ^ edge >> 16) % sizeof(counters)];
}

int main(int argc, char** argv) {
  __sanitizer_cov_8bit_counters_init(counters, counters + sizeof(counters));
  return LLVMFuzzerRunDriver(&argc, &argv, LLVMFuzzerTestOneInput);
}
