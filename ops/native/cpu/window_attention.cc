#include <algorithm>
#include <cstring>

#include "ops/native/cpu/attention.h"
#include "ops/native/cpu/head_attention.h"
#include "ops/native/cpu/per_head.h"
#include "ops/native/cpu/thread_scratch.h"

namespace mnq {
namespace {

// The maps of a node: the tokens of every window, and which plane of the bias it has.
class Windows {
 public:
  // Throws Refusal if they are outside the contract.
  explicit Windows(const Node& node) {
    const Shape& bias = node.constant("bias", Type::int32).shape;
    if (bias.size() != 4) {
      throw Refusal("input 'bias': expected shape (K, H, N, N), found " + text_of(bias));
    }
    planes_ = bias[0];
    const Tensor& order = node.constant("order", Type::int64);
    if (order.shape.size() != 2 || count(order.shape) == 0) {
      throw Refusal("input 'order': expected shape (W, N), found " + text_of(order.shape));
    }
    places_ = order.shape[1];
    order_.assign(order.as<int64_t>(), order.as<int64_t>() + count(order.shape));
    const auto* kind = node.vector("kind", Type::int64, order.shape[0]).as<int64_t>();
    kind_.assign(kind, kind + order.shape[0]);
    for (const int64_t plane : kind_) PerHead::within("kind", plane, 0, planes_ - 1);
    for (const int64_t token : order_) PerHead::within("order", token, 0, tokens() - 1);
    // That every token has a place, and one only, follows from the inverse.
    const auto* inverse = node.vector("inverse", Type::int64, tokens()).as<int64_t>();
    for (int64_t place = 0; place < tokens(); ++place) {
      const int64_t token = order_[place];
      if (inverse[token] != place) {
        throw Refusal("inputs 'order' and 'inverse': expected every token at one place, found " +
                      std::to_string(token) + " at place " + std::to_string(place) +
                      ", and in the inverse at " + std::to_string(inverse[token]));
      }
    }
  }

  int64_t windows() const { return static_cast<int64_t>(kind_.size()); }
  int64_t places() const { return places_; }  // of a window
  int64_t tokens() const { return static_cast<int64_t>(order_.size()); }
  int64_t planes() const { return planes_; }
  int64_t plane(int64_t window) const { return kind_[window]; }
  const int64_t* tokens_of(int64_t window) const { return order_.data() + window * places_; }

 private:
  std::vector<int64_t> order_, kind_;
  int64_t places_, planes_;
};

// A copy of some ten to some hundred bytes, where a call of memcpy costs as much as the bytes.
void copy_codes(int8_t* to, const int8_t* from, int64_t bytes) {
  constexpr int64_t piece = 32;
  int64_t at = 0;
  for (; at + piece <= bytes; at += piece) std::memcpy(to + at, from + at, piece);
  if (at < bytes) std::memcpy(to + at, from + at, bytes - at);
}

// A task copies some heads' rows of a window together, attends to each head, and copies the results
// to where the tokens stand.
class WindowAttentionKernel : public Kernel {
 public:
  WindowAttentionKernel(const Node& node, const Path& path, SoftmaxMethod method, bool deferred)
      : heads_(node, path, method, deferred), maps_(node) {
    node.activation("qkv", {Type::int8});
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Shape& qkv = inputs[0];
    if (qkv.size() != 5 || qkv[1] != maps_.tokens() || qkv[2] != 3 || count(qkv) == 0) {
      throw Refusal("input 'qkv': expected shape (B, " + std::to_string(maps_.tokens()) +
                    ", 3, H, d), found " + text_of(qkv));
    }
    heads_.require(qkv[3], maps_.places());
    RowBroadcast("bias", inputs[1], scores(qkv[3]));
    return {qkv[0], qkv[1], qkv[3], qkv[4]};
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Shape& qkv = inputs[0].shape;
    const int64_t images = qkv[0], heads = qkv[3], depth = qkv[4], width = heads * depth;
    const int64_t windows = maps_.windows(), places = maps_.places();
    const ScoreBias bias(inputs[1], scores(heads));
    const int64_t most = std::max<int64_t>(1, enough_bytes / depth);
    const int64_t groups = (heads + most - 1) / most, together = (heads + groups - 1) / groups;
    context.parallel(images * windows * groups, [&](size_t task) {
      const int64_t at = static_cast<int64_t>(task), first = at % groups * together;
      const int64_t window = at / groups % windows, image = at / groups / windows;
      const int64_t some = std::min(together, heads - first);
      const int64_t* tokens = maps_.tokens_of(window);
      // q, k, v and y, one after the other: `places` rows each.
      const int64_t row = some * depth, part = places * row, bytes = to_line(4 * part);
      char* scratch = thread_scratch(bytes + HeadAttention::scratch_bytes(places, depth));
      auto* codes = reinterpret_cast<int8_t*>(scratch);
      const int64_t start = image * maps_.tokens();
      for (int64_t i = 0; i < places; ++i) {
        const auto* from = inputs[0].as<int8_t>() + (start + tokens[i]) * 3 * width + first * depth;
        for (int64_t p = 0; p < 3; ++p) {
          copy_codes(codes + p * part + i * row, from + p * width, row);
        }
      }
      for (int64_t i = 0; i < some; ++i) {
        const int8_t* q = codes + i * depth;
        AttentionJob job{};
        job.rows = job.keys = places;
        job.depth = depth;
        job.q = q;
        job.y = codes + 3 * part + i * depth;
        job.q_stride = job.y_stride = row;
        bias.give(job, maps_.plane(window) * heads + first + i, 0);
        heads_.attend(job, first + i, q + part, q + 2 * part, row, scratch + bytes);
      }
      for (int64_t i = 0; i < places; ++i) {
        auto* to = static_cast<int8_t*>(output) + (start + tokens[i]) * width + first * depth;
        copy_codes(to, codes + 3 * part + i * row, row);
      }
    });
  }

 private:
  // Of a token's row of q, k or v that is copied at once: four heads of 32 codes.
  static constexpr int64_t enough_bytes = 128;

  Shape scores(int64_t heads) const {
    return {maps_.planes(), heads, maps_.places(), maps_.places()};
  }

  HeadAttention heads_;
  Windows maps_;
};

}  // namespace

std::unique_ptr<Kernel> make_window_attention(const Node& node, const Path& path,
                                              SoftmaxMethod method, bool deferred) {
  return std::make_unique<WindowAttentionKernel>(node, path, method, deferred);
}

}  // namespace mnq
