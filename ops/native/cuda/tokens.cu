// L2Normalize, MeanTokens and Patches (their SPEC.md pages).
#include <algorithm>

#include "ops/native/cuda/rescale.h"
#include "ops/native/cuda/rows.h"

namespace mnq {
namespace {

struct RowJob {
  int64_t rows, columns;  // of MeanTokens: outputs and tokens
  Integers q;
  const int32_t *m, *e;  // one number
  Codes y;
};

MNQ_KERNEL l2_normalize_kernel(RowJob job) {
  const int64_t row = own_row(), first = row * job.columns;
  if (row >= job.rows) return;
  int64_t squares = 0;
  for (int64_t j = lane(); j < job.columns; j += warp_size) {
    const int64_t q = read(job.q, first + j);
    squares += q * q;
  }
  const int64_t factor = isqrt(power_of_two(60) / most(warp_sum(squares), 1));
  for (int64_t j = lane(); j < job.columns; j += warp_size) {
    write(job.y, first + j, rescale(read(job.q, first + j) * factor, *job.m, *job.e));
  }
}

MNQ_KERNEL mean_tokens_kernel(RowJob job, int64_t channels) {
  const int64_t i = own_element();
  if (i >= job.rows) return;
  const int64_t first = i / channels * job.columns * channels + i % channels;
  int64_t sum = 0;
  for (int64_t t = 0; t < job.columns; ++t) sum += read(job.q, first + t * channels);
  write(job.y, i, rescale(sum, *job.m, *job.e));
}

struct PatchesJob {
  int64_t elements, channels, rows, height, columns, width;
  uint8_t offset;
  const uint8_t* x;
  int8_t* y;
};

// An output element: image, row and column of patches, channel, and the place in the patch.
MNQ_KERNEL patches_kernel(PatchesJob job) {
  int64_t i = own_element();
  if (i >= job.elements) return;
  const int64_t at = i;
  const auto digit = [&](int64_t length) {
    const int64_t value = i % length;
    i /= length;
    return value;
  };
  const int64_t w = digit(job.width), h = digit(job.height), channel = digit(job.channels);
  const int64_t column = digit(job.columns), row = digit(job.rows);
  const int64_t line = (i * job.channels + channel) * job.rows * job.height + row * job.height + h;
  const int64_t from = line * job.columns * job.width + column * job.width + w;
  job.y[at] = static_cast<int8_t>(static_cast<uint8_t>(job.x[from] - job.offset));
}

// Requantizes with one multiplier.
class OneScale : public DeviceKernel {
 public:
  OneScale(const Node& node, std::unique_ptr<Kernel> contract)
      : DeviceKernel(std::move(contract)), codes_(codes_of(node)), m_(node["m"]), e_(node["e"]) {}

 protected:
  RowJob job(int64_t rows, int64_t columns, const Tensor& q, void* output) const {
    return {rows, columns, {q.data, q.type}, m_.data(), e_.data(), at(codes_, output)};
  }

 private:
  Codes codes_;
  DeviceArray<int32_t> m_, e_;
};

class DeviceL2Normalize : public OneScale {
 public:
  using OneScale::OneScale;
  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape& shape = inputs[0].shape;
    if (count(shape) == 0) return;
    const int64_t columns = shape.back(), rows = count(shape) / columns;
    launch(l2_normalize_kernel, by_row(rows), context.stream(),
           job(rows, columns, inputs[0], output));
  }
};

class DeviceMeanTokens : public OneScale {
 public:
  using OneScale::OneScale;
  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape& shape = inputs[0].shape;
    const int64_t outputs = shape[0] * shape[2];
    if (outputs == 0) return;
    launch(mean_tokens_kernel, by_element(outputs), context.stream(),
           job(outputs, shape[1], inputs[0], output), shape[2]);
  }
};

class DevicePatches : public DeviceKernel {
 public:
  DevicePatches(const Node& node, std::unique_ptr<Kernel> contract)
      : DeviceKernel(std::move(contract)), offset_(static_cast<uint8_t>(node.scalar("offset"))) {
    std::copy_n(node["split"].as<int64_t>(), 6, split_);
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const int64_t elements = count(inputs[0].shape);
    if (elements == 0) return;
    const PatchesJob job{elements,  split_[1], split_[2], split_[3],
                         split_[4], split_[5], offset_,   inputs[0].as<uint8_t>(),
                         static_cast<int8_t*>(output)};
    launch(patches_kernel, by_element(elements), context.stream(), job);
  }

 private:
  uint8_t offset_;
  int64_t split_[6];
};

}  // namespace

std::unique_ptr<Kernel> make_device_l2_normalize(const Node& node,
                                                 std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceL2Normalize>(node, std::move(contract));
}

std::unique_ptr<Kernel> make_device_mean_tokens(const Node& node,
                                                std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceMeanTokens>(node, std::move(contract));
}

std::unique_ptr<Kernel> make_device_patches(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DevicePatches>(node, std::move(contract));
}

}  // namespace mnq
