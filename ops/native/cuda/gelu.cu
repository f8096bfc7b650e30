// GELUs are tables of 256 codes, IVitGelu's one for every maximum of a row: what the CPU's kernel
// gives for all codes when a session starts.
#include "ops/native/cuda/rows.h"

namespace mnq {
namespace {

constexpr int64_t all_codes = 256;

class Alone : public Context {
  void run_parallel(void (*task)(void*, size_t), size_t total, void* user) override {
    for (size_t i = 0; i < total; ++i) task(user, i);
  }
  void* allocate(size_t) override { throw std::bad_alloc(); }
};

// y at [row * 256 + q + 128] is the code of q beside the maximum row - 128.
template <class T>
DeviceArray<T> table_of(const Kernel& kernel, int64_t rows) {
  std::vector<int8_t> q;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t top = rows == 1 ? 127 : row - 128;
    for (int64_t code = -128; code < 128; ++code) q.push_back(static_cast<int8_t>(least(code, top)));
  }
  std::vector<T> y(q.size());
  Alone alone;
  kernel.run({{"q", Type::int8, {rows, all_codes}, q.data()}}, y.data(), alone);
  return DeviceArray<T>(y);
}

MNQ_DEVICE void look_up(const void* table, Type type, int64_t entry, void* y, int64_t i) {
  if (type == Type::int8) {
    static_cast<int8_t*>(y)[i] = static_cast<const int8_t*>(table)[entry];
  } else {
    static_cast<int16_t*>(y)[i] = static_cast<const int16_t*>(table)[entry];
  }
}

MNQ_KERNEL gelu_kernel(const int8_t* q, int64_t elements, const void* table, Type type, void* y) {
  const int64_t i = own_element();
  if (i < elements) look_up(table, type, q[i] + 128, y, i);
}

// Sixteen bytes at a time, with the table at hand. y may be q.
MNQ_KERNEL_OF(element_threads) byte_gelu_kernel(const int8_t* q, int64_t pieces,
                                                const int8_t* table, int8_t* y) {
  auto* near = reinterpret_cast<int8_t*>(shared_memory());
  for (int64_t i = thread(); i < all_codes; i += element_threads) near[i] = table[i];
  sync_block();
  const int64_t i = own_element();
  if (i >= pieces) return;
  Bytes piece = reinterpret_cast<const Bytes*>(q)[i];
  MNQ_UNROLL
  for (int c = 0; c < 16; ++c) piece.of[c] = near[piece.of[c] + 128];
  reinterpret_cast<Bytes*>(y)[i] = piece;
}

MNQ_KERNEL row_gelu_kernel(const int8_t* q, int64_t rows, int64_t columns, const void* table,
                           Type type, void* y) {
  const int64_t row = own_row();
  if (row >= rows) return;
  const int64_t first = row * columns;
  int top = -128;
  for (int64_t i = lane(); i < columns; i += warp_size) {
    top = q[first + i] > top ? q[first + i] : top;
  }
  top = warp_max(top);
  for (int64_t i = lane(); i < columns; i += warp_size) {
    look_up(table, type, (top + 128) * all_codes + q[first + i] + 128, y, first + i);
  }
}

// The same for rows of whole words. y may be q: a lane reads what it writes, and no other.
MNQ_KERNEL_OF(row_warps* warp_size) byte_row_gelu_kernel(const int8_t* q, int64_t rows,
                                                         int64_t columns, const int8_t* table,
                                                         int8_t* y) {
  const int64_t row = own_row();
  if (row >= rows) return;
  const int64_t words = columns / 4;
  const auto* from = reinterpret_cast<const uint32_t*>(q + row * columns);
  auto* to = reinterpret_cast<uint32_t*>(y + row * columns);
  int top = -128;
  for (int64_t i = lane(); i < words; i += warp_size) {
    const uint32_t word = from[i];
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int code = static_cast<int8_t>(word >> 8 * c & 0xff);
      top = code > top ? code : top;
    }
  }
  table += (warp_max(top) + 128) * all_codes + 128;
  for (int64_t i = lane(); i < words; i += warp_size) {
    const uint32_t word = from[i];
    uint32_t found = 0;
    MNQ_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int8_t code = table[static_cast<int8_t>(word >> 8 * c & 0xff)];
      found |= static_cast<uint32_t>(static_cast<uint8_t>(code)) << 8 * c;
    }
    to[i] = found;
  }
}

class DeviceGelu : public DeviceKernel {
 public:
  DeviceGelu(const Node& node, std::unique_ptr<Kernel> contract, bool by_maximum)
      : DeviceKernel(std::move(contract)), to_(node.to), rows_(by_maximum) {
    const int64_t tables = by_maximum ? all_codes : 1;
    if (to_ == Type::int8) {
      bytes_ = table_of<int8_t>(this->contract(), tables);
    } else {
      words_ = table_of<int16_t>(this->contract(), tables);
    }
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const auto* q = inputs[0].as<int8_t>();
    const Shape& shape = inputs[0].shape;
    const int64_t elements = count(shape);
    if (elements == 0) return;
    void* const stream = context.stream();
    const int64_t columns = shape.empty() ? 1 : shape.back(), rows = elements / columns;
    const bool bytes = to_ == Type::int8 && aligned(q) && aligned(output);
    if (bytes && !rows_ && elements % 16 == 0) {
      Launch where = by_element(elements / 16);
      where.shared = all_codes;
      launch(byte_gelu_kernel, where, stream, q, elements / 16, bytes_.data(),
             static_cast<int8_t*>(output));
    } else if (bytes && rows_ && columns % 4 == 0) {
      launch(byte_row_gelu_kernel, by_row(rows), stream, q, rows, columns, bytes_.data(),
             static_cast<int8_t*>(output));
    } else {
      const void* table =
          to_ == Type::int8 ? static_cast<const void*>(bytes_.data()) : words_.data();
      if (rows_) {
        launch(row_gelu_kernel, by_row(rows), stream, q, rows, columns, table, to_, output);
      } else {
        launch(gelu_kernel, by_element(elements), stream, q, elements, table, to_, output);
      }
    }
  }

 private:
  Type to_;
  bool rows_;
  DeviceArray<int8_t> bytes_;
  DeviceArray<int16_t> words_;
};

}  // namespace

std::unique_ptr<Kernel> make_device_gelu(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceGelu>(node, std::move(contract), false);
}

std::unique_ptr<Kernel> make_device_row_gelu(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceGelu>(node, std::move(contract), true);
}

}  // namespace mnq
