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
    const void* table = to_ == Type::int8 ? static_cast<const void*>(bytes_.data()) : words_.data();
    if (elements == 0) return;
    if (!rows_) {
      launch(gelu_kernel, by_element(elements), context.stream(), q, elements, table, to_, output);
      return;
    }
    const int64_t columns = shape.back(), rows = elements / columns;
    launch(row_gelu_kernel, by_row(rows), context.stream(), q, rows, columns, table, to_, output);
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
