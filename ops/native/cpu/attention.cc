#include "ops/native/cpu/attention.h"

#include <algorithm>

#include "ops/native/cpu/attention_job.h"
#include "ops/native/cpu/broadcast.h"
#include "ops/native/cpu/path.h"
#include "ops/native/cpu/rescaling.h"
#include "ops/native/cpu/thread_scratch.h"

namespace mnq {
namespace {

// Where the codes of a head lie in one of q, k, v or the output.
struct Layout {
  int64_t image, head, row;  // steps in elements
};

// Lengths of one call.
struct Sizes {
  int64_t images, heads, queries, keys, depth;
};

class AttentionKernel : public Kernel {
 public:
  AttentionKernel(const Node& node, const Path& path, SoftmaxMethod method, bool deferred,
                  bool packed)
      : path_(path),
        packed_(packed),
        score_limits_(node, Type::int8, "lo_s", "hi_s"),
        limits_(node),
        score_scale_(node, "m_s", "e_s", 32),
        scale_(node, "m", "e", 32),
        tables_(node, method, deferred, score_limits_.hi - score_limits_.lo) {
    for (const char* name : {"q", "k", "v"}) {
      if (!packed) node.activation(name, {Type::int8});
    }
    if (packed) node.activation("qkv", {Type::int8});
    node.activation("bias", {Type::int32});
    const Shape& shape = score_scale_.shape();
    if (!score_scale_.is_scalar() && !(shape.size() == 3 && shape[1] == 1 && shape[2] == 1)) {
      throw Refusal("input 'm_s': expected one number or shape (H, 1, 1), found " +
                    text_of(shape));
    }
    if (!scale_.is_scalar()) {
      throw Refusal("input 'm': expected one number, found shape " + text_of(scale_.shape()));
    }
  }

  Shape output_shape(const std::vector<Shape>& inputs) const override {
    const Sizes n = sizes(inputs);
    for (const int64_t heads : {count(score_scale_.shape()), tables_.heads()}) {
      if (heads != 1 && heads != n.heads) {
        throw Refusal("constants: expected one number or one per head, of which there are " +
                      std::to_string(n.heads) + ", found " + std::to_string(heads));
      }
    }
    tables_.require_keys(n.keys);
    RowBroadcast("bias", inputs[packed_ ? 1 : 3], {n.images, n.heads, n.queries, n.keys});
    if (packed_) return {n.images, n.queries, n.heads, n.depth};
    return {n.images, n.heads, n.queries, n.depth};
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Tensor& bias = inputs[packed_ ? 1 : 3];
    const Sizes n = packed_ ? sizes({inputs[0].shape})
                            : sizes({inputs[0].shape, inputs[1].shape, inputs[2].shape});
    if (n.images * n.heads * n.queries * n.depth == 0) return;
    const RowBroadcast bias_rows("bias", bias.shape, {n.images, n.heads, n.queries, n.keys});
    const bool no_bias = count(bias.shape) == 1 && *bias.as<int32_t>() == 0;
    const int64_t width = n.heads * n.depth;
    const Layout tokens{n.queries * width * 3, n.depth, width * 3};
    const Layout query = packed_ ? tokens : by_head(n.heads, n.queries, n.depth);
    const Layout key = packed_ ? tokens : by_head(n.heads, n.keys, n.depth);
    const Layout out = packed_ ? Layout{n.queries * width, n.depth, width} : query;
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
      pack(job, k + image * key.image + head * key.head, v + image * key.image + head * key.head,
           key.row);
      if (!no_bias) {
        const int64_t row = at * n.queries + first;
        job.bias = bias.as<int32_t>() + bias_rows.offset(row);
        job.bias_row_stride = n.queries > 1 ? bias_rows.offset(at * n.queries + 1) -
                                                  bias_rows.offset(at * n.queries)
                                            : 0;
        job.bias_column_stride = bias_rows.per_column() ? 1 : 0;
      }
      job.score_scale = score_scale_.at(score_scale_.is_scalar() ? 0 : head, false);
      job.score_lo = score_limits_.lo;
      job.score_hi = score_limits_.hi;
      job.softmax = tables_.of(head);
      job.scale = scale_.at(0, false);
      job.lo = limits_.lo;
      job.hi = limits_.hi;
      path_.attend(job);
    });
  }

 private:
  static constexpr int64_t enough_tasks = 4;

  static Layout by_head(int64_t heads, int64_t rows, int64_t depth) {
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

  // Packs a head's keys and values into the thread's scratch memory; the rest of it is the job's.
  void pack(AttentionJob& job, const int8_t* k, const int8_t* v, int64_t stride) const {
    const int64_t keys = round_up(job.keys, cache_line), depth = round_up(job.depth, cache_line);
    const int64_t panel_bytes = keys * depth;
    const int64_t rows_bytes = attention_scratch(job.keys, job.depth);
    char* at = thread_scratch(2 * panel_bytes + 4 * (keys + 2 * depth) + rows_bytes);
    auto* key_panels = reinterpret_cast<int8_t*>(at);
    auto* value_panels = key_panels + panel_bytes;
    auto* key_offsets = reinterpret_cast<int32_t*>(value_panels + panel_bytes);
    auto *value_offsets = key_offsets + keys, *zeros = value_offsets + depth;
    path_.pack(k, 1, stride, job.depth, job.keys, key_panels, key_offsets);
    path_.pack(v, stride, 1, job.keys, job.depth, value_panels, value_offsets);
    std::fill_n(zeros, depth, 0);
    job.key_panels = key_panels;
    job.key_offsets = key_offsets;
    job.value_panels = value_panels;
    job.zeros = zeros;
    job.scratch = reinterpret_cast<char*>(zeros + depth);
  }

  const Path& path_;
  bool packed_;
  Limits score_limits_, limits_;
  OwnedRescaling score_scale_, scale_;
  HeadTables tables_;
};

}  // namespace

template <SoftmaxMethod method, bool deferred, bool packed>
std::unique_ptr<Kernel> make_attention(const Node& node, const Path& path) {
  return std::make_unique<AttentionKernel>(node, path, method, deferred, packed);
}

#define MNQ_MAKE(method)                                                                    \
  template std::unique_ptr<Kernel> make_attention<SoftmaxMethod::method, true, true>(       \
      const Node&, const Path&);                                                            \
  template std::unique_ptr<Kernel> make_attention<SoftmaxMethod::method, true, false>(      \
      const Node&, const Path&);                                                            \
  template std::unique_ptr<Kernel> make_attention<SoftmaxMethod::method, false, true>(      \
      const Node&, const Path&);                                                            \
  template std::unique_ptr<Kernel> make_attention<SoftmaxMethod::method, false, false>(     \
      const Node&, const Path&);
MNQ_MAKE(ivit)
MNQ_MAKE(ibert)
MNQ_MAKE(fqvit)
MNQ_MAKE(lut)

}  // namespace mnq
