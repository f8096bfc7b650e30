#include "ops/native/cpu/head_attention.h"

#include <algorithm>

namespace mnq {

HeadAttention::HeadAttention(const Node& node, const Path& path, SoftmaxMethod method,
                             bool deferred)
    : path_(path),
      score_limits_(node, Type::int8, "lo_s", "hi_s"),
      limits_(node),
      score_scale_(node, "m_s", "e_s", 32),
      scale_(node, "m", "e", 32),
      tables_(node, method, deferred, score_limits_.hi - score_limits_.lo) {
  const auto require_heads = [](const char* name, const Shape& shape) {
    if (count(shape) == 1 || (shape.size() == 3 && shape[1] == 1 && shape[2] == 1)) return;
    throw Refusal(std::string("input '") + name +
                  "': expected one number or shape (H, 1, 1), found " + text_of(shape));
  };
  require_heads("m_s", score_scale_.shape());
  require_heads("m", scale_.shape());
  require_heads("lo", limits_.shape());
}

void HeadAttention::require(int64_t heads, int64_t keys) const {
  for (const int64_t found : {count(score_scale_.shape()), count(scale_.shape()),
                              count(limits_.shape()), tables_.heads()}) {
    if (found != 1 && found != heads) {
      throw Refusal("constants: expected one number or one per head, of which there are " +
                    std::to_string(heads) + ", found " + std::to_string(found));
    }
  }
  tables_.require_keys(keys);
}

int64_t HeadAttention::scratch_bytes(int64_t keys, int64_t depth) {
  const int64_t columns = to_line(keys), padded = to_line(depth);
  return 2 * columns * padded + 4 * (columns + 2 * padded) + attention_scratch(keys, depth);
}

void HeadAttention::attend(AttentionJob job, int64_t head, const int8_t* k, const int8_t* v,
                           int64_t stride, char* scratch) const {
  const int64_t keys = to_line(job.keys), depth = to_line(job.depth);
  auto* key_panels = reinterpret_cast<int8_t*>(scratch);
  auto* value_panels = key_panels + keys * depth;
  auto* key_offsets = reinterpret_cast<int32_t*>(value_panels + keys * depth);
  auto *value_offsets = key_offsets + keys, *zeros = value_offsets + depth;
  path_.pack(k, 1, stride, job.depth, job.keys, key_panels, key_offsets);
  path_.pack(v, stride, 1, job.keys, job.depth, value_panels, value_offsets);
  std::fill_n(zeros, depth, 0);
  job.key_panels = key_panels;
  job.key_offsets = key_offsets;
  job.value_panels = value_panels;
  job.zeros = zeros;
  job.scratch = reinterpret_cast<char*>(zeros + depth);
  job.score_scale = score_scale_.at(score_scale_.is_scalar() ? 0 : head, false);
  job.score_lo = score_limits_.lo;
  job.score_hi = score_limits_.hi;
  job.softmax = tables_.of(head);
  job.scale = scale_.at(scale_.is_scalar() ? 0 : head, false);
  job.lo = limits_.lo(head);
  job.hi = limits_.hi(head);
  path_.attend(job);
}

ScoreBias::ScoreBias(const Tensor& bias, const Shape& shape)
    : rows_("bias", bias.shape, shape), data_(bias.as<int32_t>()), queries_(shape[2]) {
  row_stride_ = queries_ > 1 ? rows_.offset(1) - rows_.offset(0) : 0;
  if (count(bias.shape) == 1 && *data_ == 0) data_ = nullptr;
}

void ScoreBias::give(AttentionJob& job, int64_t at, int64_t first) const {
  if (data_ == nullptr) return;
  job.bias = data_ + rows_.offset(at * queries_ + first);
  job.bias_row_stride = row_stride_;
  job.bias_column_stride = rows_.per_column() ? 1 : 0;
}

}  // namespace mnq
