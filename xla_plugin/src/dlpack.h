// The part of DLPack's C interface (version 0.8, github.com/dmlc/dlpack) that views need.
#pragma once

#include <cstdint>

namespace missile {

// The interface gives it four bytes.
// NOLINTNEXTLINE(performance-enum-size)
enum DLDeviceType : std::int32_t { kDLNone = 0, kDLCPU = 1, kDLCUDA = 2 };

enum DLDataTypeCode : std::uint8_t {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLBfloat = 4,
  kDLComplex = 5,
  kDLBool = 6,
};

struct DLDevice {
  DLDeviceType device_type;
  std::int32_t device_id;
};

struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // In elements; null: compact and row-major.
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};

static_assert(sizeof(void*) == 8 && sizeof(DLTensor) == 48 && sizeof(DLManagedTensor) == 64,
              "DLPack's layout");

}  // namespace missile
