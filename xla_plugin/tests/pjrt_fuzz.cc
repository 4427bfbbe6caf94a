// A fuzz target for what copies a caller's arguments: host buffers of any strides and layout, the
// structures of a launch, and donations in a compiled program. Clang links it with libFuzzer by
// -fsanitize=fuzzer; for GCC see fuzz_main.cc.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "../pjrt/arguments.h"
#include "../pjrt/donations.h"
#include "../pjrt/gather.h"

namespace {

using namespace missile::pjrt;  // NOLINT(google-build-using-namespace)

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "pjrt_fuzz: %s\n", what);
  std::abort();
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  std::string_view Rest() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

// An array whose elements lie anywhere in a buffer of just the size that they need: a sanitizer
// sees each byte that is read beside them.
void FuzzGather(Input* in) {
  static constexpr std::size_t kSizes[] = {1, 2, 4, 8, 16};
  const std::size_t element = kSizes[in->Byte() % 5];
  const std::size_t rank = in->Byte() % 5;
  std::vector<std::int64_t> dims;
  std::vector<std::int64_t> strides;
  std::int64_t lowest = 0;
  std::int64_t highest = 0;
  for (std::size_t i = 0; i < rank; ++i) {
    dims.push_back(1 + in->Byte() % 6);
    strides.push_back(static_cast<std::int8_t>(in->Byte()));
    const std::int64_t reach = (dims[i] - 1) * strides[i];
    (reach < 0 ? lowest : highest) += reach;
  }
  std::vector<std::int64_t> order;
  for (std::size_t i = 0; i < rank; ++i) {
    order.insert(order.begin() + in->Byte() % (static_cast<int>(i) + 1),
                 static_cast<std::int64_t>(i));
  }
  Layout layout{};
  layout.type = LayoutType::kTiled;
  layout.tiled.minor_to_major = order.data();
  layout.tiled.num_dims = rank;
  const bool with_layout = in->Byte() % 2 != 0;

  std::vector<std::byte> source(static_cast<std::size_t>(highest - lowest) + element);
  for (std::byte& byte : source) byte = static_cast<std::byte>(in->Byte());
  auto gather = PlanGather(dims.data(), rank, element, rank != 0 ? strides.data() : nullptr, rank,
                           with_layout ? &layout : nullptr);
  Require(gather.has_value(), "a plain array was refused");
  const auto bytes = ArrayBytes(dims.data(), rank, static_cast<int>(element * 8));
  std::vector<std::byte> copied(*bytes);
  RunGather(*gather, source.data() - lowest, copied.data());

  // Element by element.
  std::vector<std::int64_t> at(rank);
  for (std::size_t offset = 0; offset < copied.size(); offset += element) {
    std::int64_t from = -lowest;
    for (std::size_t i = 0; i < rank; ++i) from += at[i] * strides[i];
    Require(std::memcmp(copied.data() + offset, source.data() + from, element) == 0,
            "an element is not where it belongs");
    for (std::size_t i = 0; i < rank; ++i) {
      const auto dim = static_cast<std::size_t>(
          with_layout ? order[i] : static_cast<std::int64_t>(rank - 1 - i));
      if (++at[dim] < dims[dim]) break;
      at[dim] = 0;
    }
  }
}

// Whatever the numbers are: what is planned, or refused, reads nothing.
void FuzzShapes(Input* in) {
  const std::size_t rank = in->Byte() % 4;
  auto number = [in] {
    std::int64_t value = 0;
    for (int i = 0; i < 8; ++i)
      value = static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << 8 | in->Byte());
    return value;
  };
  std::vector<std::int64_t> dims;
  std::vector<std::int64_t> strides;
  std::vector<std::int64_t> order;
  for (std::size_t i = 0; i < rank; ++i) {
    dims.push_back(number());
    strides.push_back(number());
    order.push_back(in->Byte() % 4);
  }
  const auto bytes = ArrayBytes(dims.data(), rank, ElementBits(in->Byte()));
  if (!bytes.has_value() || *bytes == 0) return;
  Layout layout{};
  layout.type = static_cast<LayoutType>(in->Byte() % 2);
  layout.tiled.minor_to_major = order.data();
  layout.tiled.num_dims = rank;
  layout.tiled.num_tiles = in->Byte() % 2;
  PlanGather(dims.data(), rank, 4, strides.data(), in->Byte() % 4, &layout);
}

void FuzzArguments(Input* in) {
  // A caller's structures, as long as it says, with what comes behind them.
  std::vector<std::uint64_t> options_bytes(sizeof(ExecuteOptions) / 8 + in->Byte() % 9);
  for (std::uint64_t& word : options_bytes) word = in->Byte();
  std::vector<std::int64_t> kept(in->Byte() % 5, 7);
  auto* options = reinterpret_cast<ExecuteOptions*>(options_bytes.data());
  options->struct_size = options_bytes.size() * 8;
  options->non_donatable = kept.data();
  options->num_non_donatable = kept.size();
  std::vector<std::uint64_t> args_bytes(sizeof(ExecuteArgs) / 8 + in->Byte() % 9);
  for (std::uint64_t& word : args_bytes) word = in->Byte();
  auto* args = reinterpret_cast<ExecuteArgs*>(args_bytes.data());
  args->struct_size = args_bytes.size() * 8;
  args->options = options;

  const std::vector<std::uint64_t> before = args_bytes;
  LaunchArguments changed(args);
  std::vector<std::int64_t> more(in->Byte() % 3, 3);
  changed.KeepFromDonation(more);
  Event* event = nullptr;
  changed.AskForEvents(&event);
  ExecuteArgs* now = changed.get();
  Require(args_bytes == before, "the caller's arguments were changed");
  Require(now->complete == &event && now->struct_size == args->struct_size, "no events");
  Require(now->options->num_non_donatable == kept.size() + more.size(), "not all are kept");
  Require(std::memcmp(now + 1, args + 1, args->struct_size - sizeof(ExecuteArgs)) == 0,
          "what comes behind was lost");
  if (!more.empty()) {
    Require(std::memcmp(now->options + 1, options + 1,
                        options->struct_size - sizeof(ExecuteOptions)) == 0,
            "what comes behind the options was lost");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (in.Byte() % 4) {
    case 0:
      FuzzGather(&in);
      break;
    case 1:
      FuzzShapes(&in);
      break;
    case 2:
      FuzzArguments(&in);
      break;
    default:
      ReadDonations(in.Rest(), in.Byte() % 2 != 0);
  }
  return 0;
}
