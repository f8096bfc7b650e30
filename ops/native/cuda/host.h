// What the host side of device kernels shares: memory, launches, constants.
#pragma once

#include <memory>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ops/native/cpu/broadcast.h"
#include "ops/native/cuda/device.h"
#include "ops/native/kernel.h"

namespace mnq {

// Device memory, which lives as long as a kernel. Throws if there is none left.
namespace device {
std::string lacking();  // why no kernel runs on the current one; empty if kernels do
int processors();       // of the current one
void* get(size_t bytes);
void release(void* memory) noexcept;
void copy_in(void* to, const void* from, size_t bytes);   // and waits
void copy_out(void* to, const void* from, size_t bytes);  // and waits
}  // namespace device

// `size` elements on the device, of which the last ones may stay zero.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(const T* values, size_t count, size_t size) {
    std::vector<T> whole(size + 1, T{});
    std::copy(values, values + count, whole.begin());
    memory_.reset(static_cast<T*>(device::get(whole.size() * sizeof(T))));
    device::copy_in(memory_.get(), whole.data(), whole.size() * sizeof(T));
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(values.data(), values.size(), values.size()) {}
  // Of a constant of a node.
  explicit DeviceArray(const Tensor& tensor)
      : DeviceArray(tensor.as<T>(), count(tensor.shape), count(tensor.shape)) {}

  T* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const { device::release(memory); }
  };
  std::unique_ptr<T, Free> memory_;
};

struct Launch {
  int64_t x, y, z;  // blocks
  int threads;
  size_t shared = 0;  // bytes
};

constexpr int64_t most_blocks = 65535;  // along y and z

#if defined(__CUDACC__)

inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
  }
}

namespace device {
// Compute capability of the current one.
struct Capability {
  int major, minor;
};
Capability capability();
}  // namespace device

// Runs a kernel in a stream; it may still run when this returns.
template <class... P>
void launch(void (*kernel)(P...), const Launch& where, void* stream,
            std::common_type_t<P>... arguments) {
  const dim3 grid(static_cast<unsigned>(where.x), static_cast<unsigned>(where.y),
                  static_cast<unsigned>(where.z));
  kernel<<<grid, where.threads, where.shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check_cuda(cudaGetLastError());
}

// Lets a kernel be launched with more shared memory than 48 KB; once, when a node is made.
template <class... P>
void allow_shared(void (*kernel)(P...), size_t bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)));
}

#else

template <class... P>
void launch(void (*kernel)(P...), const Launch& where, void*, std::common_type_t<P>... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  } call{kernel, {arguments...}};
  const int64_t grid[3] = {where.x, where.y, where.z};
  const auto body = [](void* user) {
    const auto& own = *static_cast<Call*>(user);
    std::apply(own.kernel, own.arguments);
  };
  emulated::run(grid, where.threads, where.shared, body, &call);
}

template <class... P>
void allow_shared(void (*)(P...), size_t) {}

#endif

constexpr size_t most_shared = 96 << 10;  // bytes of a block, on every GPU from sm_80 on

inline int64_t blocks_of(int64_t total, int64_t each) { return (total + each - 1) / each; }

// Where rows of a larger shape find their rows of an operand, for device code.
struct Places {
  static constexpr int most_axes = 7;
  int axes, column_step;
  int64_t lengths[most_axes], strides[most_axes];
};

Places places_of(const RowBroadcast& rows);  // throws Refusal for more than 8 axes

MNQ_CORE int64_t place(const Places& places, int64_t row, int64_t column) {
  int64_t at = column * places.column_step;
  for (int axis = places.axes - 1; axis >= 0; --axis) {
    at += row % places.lengths[axis] * places.strides[axis];
    row /= places.lengths[axis];
  }
  return at;
}

// Multipliers and shifts on the device.
struct Scale {
  const int32_t *m, *e;
  Places places;
};

class DeviceScale {
 public:
  DeviceScale() = default;
  DeviceScale(const Node& node, const char* m, const char* e);
  // For rows of `shape`, to which they broadcast.
  Scale of(const Shape& shape) const;

 private:
  const char* name_ = "";
  Shape shape_;
  DeviceArray<int32_t> m_, e_;
};

// A kernel on the device. Its contract is that of the CPU's kernel, which also checks constants.
class DeviceKernel : public Kernel {
 public:
  explicit DeviceKernel(std::unique_ptr<Kernel> contract) : contract_(std::move(contract)) {}
  Shape output_shape(const std::vector<Shape>& inputs) const override {
    return contract_->output_shape(inputs);
  }

 protected:
  const Kernel& contract() const { return *contract_; }

 private:
  std::unique_ptr<Kernel> contract_;
};

// Numbers that one thread moves at a time.
struct alignas(16) Bytes {
  int8_t of[16];
};
struct alignas(16) Words {
  int32_t of[4];
};
struct alignas(8) Halves {
  int16_t of[4];
};

inline bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// A pointer to integers of 8, 16 or 32 bits, for device code.
struct Integers {
  const void* data;
  Type type;
};

MNQ_CORE int64_t read(const Integers& from, int64_t at) {
  switch (from.type) {
    case Type::int8:
      return static_cast<const int8_t*>(from.data)[at];
    case Type::int16:
      return static_cast<const int16_t*>(from.data)[at];
    default:
      return static_cast<const int32_t*>(from.data)[at];
  }
}

// Codes of 8, 16 or 32 bits.
struct Codes {
  void* data;
  Type type;
  int32_t lo, hi;
};

MNQ_CORE void write(const Codes& to, int64_t at, int64_t code) {
  code = clamp(code, to.lo, to.hi);
  if (to.type == Type::int8) {
    static_cast<int8_t*>(to.data)[at] = static_cast<int8_t>(code);
  } else if (to.type == Type::int16) {
    static_cast<int16_t*>(to.data)[at] = static_cast<int16_t>(code);
  } else {
    static_cast<int32_t*>(to.data)[at] = static_cast<int32_t>(code);
  }
}

}  // namespace mnq
