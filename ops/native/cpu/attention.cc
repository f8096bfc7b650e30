#include "ops/native/cpu/attention.h"

#include <algorithm>

#include "ops/native/cpu/head_attention.h"
#include "ops/native/cpu/thread_scratch.h"

namespace mnq {
namespace {

// Where the codes of a head lie in one of q, k, v or the output.
struct Steps {
  int64_t image, head, row;  // in elements
};

// Lengths of one call.
struct Sizes {
  int64_t images, heads, queries, keys, depth;
};

class AttentionKernel : public Kernel {
 public:
  AttentionKernel(const Node& node, const Path& path, SoftmaxMethod method, bool deferred,
                  bool packed)
      : packed_(packed), heads_(node, path, method, deferred) {
    for (const char* name : {"q", "k", "v"}) {
      if (!packed) node.activation(name, {Type::int8});
    }
    if (packed) node.activation("qkv", {Type::int8});
    node.activation("bias", {Type::int32});
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Sizes n = sizes(inputs);
    heads_.require(n.heads, n.keys);
    RowBroadcast("bias", inputs[packed_ ? 1 : 3], {n.images, n.heads, n.queries, n.keys});
    if (packed_) return {n.images, n.queries, n.heads, n.depth};
    return {n.images, n.heads, n.queries, n.depth};
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Sizes n = packed_ ? sizes({inputs[0].shape})
                            : sizes({inputs[0].shape, inputs[1].shape, inputs[2].shape});
    if (n.images * n.heads * n.queries * n.depth == 0) return;
    const ScoreBias bias(inputs[packed_ ? 1 : 3], {n.images, n.heads, n.queries, n.keys});
    const int64_t width = n.heads * n.depth;
    const Steps tokens{n.queries * width * 3, n.depth, width * 3};
    const Steps query = packed_ ? tokens : by_head(n.heads, n.queries, n.depth);
    const Steps key = packed_ ? tokens : by_head(n.heads, n.keys, n.depth);
    const Steps out = packed_ ? Steps{n.queries * width, n.depth, width} : query;
    const auto* q = inputs[0].as<int8_t>();
    const auto* k = packed_ ? q + width : inputs[1].as<int8_t>();
    const auto* v = packed_ ? q + 2 * width : inputs[2].as<int8_t>();
    // A head is a task, or part of its rows if there are few heads to share.
    const int64_t all_heads = n.images * n.heads;
    const int64_t wanted = (enough_tasks + all_heads - 1) / all_heads;
    const int64_t parts = std::max<int64_t>(1, std::min(wanted, n.queries / attention_rows));
    const int64_t part_rows = n.queries / parts;
    context.parallel(all_heads * parts, [&](size_t task) {
      const int64_t at = static_cast<int64_t>(task) / parts, part = task % parts;
      const int64_t image = at / n.heads, head = at % n.heads, first = part * part_rows;
      AttentionJob job{};
      job.rows = part + 1 == parts ? n.queries - first : part_rows;
      job.depth = n.depth;
      job.keys = n.keys;
      job.q = q + image * query.image + head * query.head + first * query.row;
      job.q_stride = query.row;
      job.y = static_cast<int8_t*>(output) + image * out.image + head * out.head + first * out.row;
      job.y_stride = out.row;
      bias.give(job, at, first);
      heads_.attend(job, head, k + image * key.image + head * key.head,
                    v + image * key.image + head * key.head, key.row,
                    thread_scratch(HeadAttention::scratch_bytes(n.keys, n.depth)));
    });
  }

 private:
  static constexpr int64_t enough_tasks = 4;

  static Steps by_head(int64_t heads, int64_t rows, int64_t depth) {
    return {heads * rows * depth, rows * depth, depth};
  }

  Sizes sizes(const std::vector<Shape>& inputs) const {
    const Shape& q = inputs[0];
    if (packed_) {
      if (q.size() != 5 || q[2] != 3 || count(q) == 0) {
        throw Refusal("input 'qkv': expected shape (B, N, 3, H, d), found " + text_of(q));
      }
      return {q[0], q[3], q[1], q[1], q[4]};
    }
    const Shape &k = inputs[1], &v = inputs[2];
    bool fits = q.size() == 4 && k.size() == 4 && v == k && count(k) > 0;
    for (size_t axis : {0, 1, 3}) fits = fits && q[axis] == k[axis];
    if (!fits) {
      throw Refusal(
          "inputs 'q', 'k' and 'v': expected shapes (B, H, N, d), (B, H, M, d) and (B, H, M, d), "
          "found " +
          text_of(q) + ", " + text_of(k) + " and " + text_of(v));
    }
    return {q[0], q[1], q[2], k[2], q[3]};
  }

  bool packed_;
  HeadAttention heads_;
};

}  // namespace

template <SoftmaxMethod method, bool deferred, AttentionLayout layout>
std::unique_ptr<Kernel> make_attention(const Node& node, const Path& path) {
  if (layout == AttentionLayout::window) {
    return make_window_attention(node, path, method, deferred);
  }
  return std::make_unique<AttentionKernel>(node, path, method, deferred,
                                           layout == AttentionLayout::packed);
}

#define MNQ_MAKE_LAYOUT(method, deferred, layout)                                                \
  template std::unique_ptr<Kernel>                                                               \
  make_attention<SoftmaxMethod::method, deferred, AttentionLayout::layout>(const Node&,          \
                                                                           const Path&);
#define MNQ_MAKE(method)                      \
  MNQ_MAKE_LAYOUT(method, true, separate)     \
  MNQ_MAKE_LAYOUT(method, true, packed)       \
  MNQ_MAKE_LAYOUT(method, true, window)       \
  MNQ_MAKE_LAYOUT(method, false, separate)    \
  MNQ_MAKE_LAYOUT(method, false, packed)      \
  MNQ_MAKE_LAYOUT(method, false, window)
MNQ_MAKE(ivit)
MNQ_MAKE(ibert)
MNQ_MAKE(fqvit)
MNQ_MAKE(lut)

}  // namespace mnq
