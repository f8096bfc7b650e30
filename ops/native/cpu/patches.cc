#include "ops/native/cpu/patches.h"

#include <algorithm>

namespace mnq {
namespace {

class PatchesKernel : public Kernel {
 public:
  explicit PatchesKernel(const Node& node) : offset_(node.scalar("offset")) {
    node.activation("x", {Type::uint8, Type::int8});
    const auto* split = node.vector("split", Type::int64, 6).as<int64_t>();
    const auto* flat = node.vector("flat", Type::int64, 4).as<int64_t>();
    bool fits = split[0] == -1 && flat[0] == -1 && flat[1] == split[2] && flat[2] == split[4];
    for (int i = 1; i < 6; ++i) fits = fits && split[i] > 0 && split[i] < most_pixels;
    if (!fits || flat[3] != split[1] * split[3] * split[5]) {
      const Shape found(split, split + 6), rows(flat, flat + 4);
      throw Refusal(
          "inputs 'split' and 'flat': expected (-1, C, rows, P, columns, Q) and (-1, rows, "
          "columns, C * P * Q), found " +
          text_of(found) + " and " + text_of(rows));
    }
    channels_ = split[1];
    rows_ = split[2];
    height_ = split[3];
    columns_ = split[4];
    width_ = split[5];
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape& x = inputs[0];
    const Shape expected{-1, channels_, rows_ * height_, columns_ * width_};
    if (x.size() != 4 || !std::equal(x.begin() + 1, x.end(), expected.begin() + 1)) {
      throw Refusal("input 'x': expected shape " + text_of(expected) + ", found " + text_of(x));
    }
    return {x[0], rows_, columns_, channels_ * height_ * width_};
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const auto* x = inputs[0].as<uint8_t>();
    auto* y = static_cast<int8_t*>(output);
    const int64_t line = columns_ * width_, channel = rows_ * height_ * line;
    const int64_t patch = channels_ * height_ * width_;
    // Only the low byte of a difference is kept, whatever the sign of x.
    const auto offset = static_cast<uint8_t>(offset_);
    context.parallel(inputs[0].shape[0] * rows_, [&](size_t task) {
      const int64_t image = static_cast<int64_t>(task) / rows_, row = task % rows_;
      for (int64_t c = 0; c < channels_; ++c) {
        for (int64_t i = 0; i < height_; ++i) {
          const uint8_t* from =
              x + (image * channels_ + c) * channel + (row * height_ + i) * line;
          int8_t* to =
              y + (image * rows_ + row) * columns_ * patch + (c * height_ + i) * width_;
          for (int64_t j = 0; j < columns_; ++j, from += width_, to += patch) {
            for (int64_t w = 0; w < width_; ++w) to[w] = static_cast<int8_t>(from[w] - offset);
          }
        }
      }
    });
  }

 private:
  static constexpr int64_t most_pixels = 1 << 20;  // of one axis: products stay far below 2^63
  int64_t offset_, channels_, rows_, height_, columns_, width_;
};

}  // namespace

std::unique_ptr<Kernel> make_patches(const Node& node, const Path&) {
  return std::make_unique<PatchesKernel>(node);
}

}  // namespace mnq
