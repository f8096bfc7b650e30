// Every operator of the domain `mnq`: its inputs as ops/*/op.py names them, and its kernel.
#include "ops/native/cpu/attention.h"
#include "ops/native/cpu/gelu.h"
#include "ops/native/cpu/l2_normalize.h"
#include "ops/native/cpu/layernorm.h"
#include "ops/native/cpu/linear.h"
#include "ops/native/cpu/mean_tokens.h"
#include "ops/native/cpu/patches.h"
#include "ops/native/cpu/qmatmul.h"
#include "ops/native/cpu/requantize.h"
#include "ops/native/cpu/softmax.h"
#include "ops/native/infer.h"

namespace mnq {
namespace {

using Names = std::vector<const char*>;

Names joined(std::initializer_list<Names> parts) {
  Names all;
  for (const Names& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

const Names saturation{"m", "e", "lo", "hi"};

template <SoftmaxMethod method, bool deferred>
void add_attention(std::vector<Definition>& all, const char* name, const char* packed_name,
                   const char* window_name, const Names& softmax) {
  using L = AttentionLayout;
  const Names rest = joined({{"m_s", "e_s", "lo_s", "hi_s"}, softmax, saturation});
  all.push_back({name, joined({{"q", "k", "v", "bias"}, rest}), 3, Type::int8, false, -1,
                 make_attention<method, deferred, L::separate>});
  all.push_back({packed_name, joined({{"qkv", "bias"}, rest}), 1, Type::int8, false, -1,
                 make_attention<method, deferred, L::packed>, infer::packed_attention});
  all.push_back({window_name, joined({{"qkv", "bias", "kind", "order", "inverse"}, rest}), 1,
                 Type::int8, false, -1, make_attention<method, deferred, L::window>,
                 infer::packed_attention});
}

std::vector<Definition> all_definitions() {
  std::vector<Definition> all;
  const auto add = [&](const char* name, const Names& activations, const Names& constants,
                       int in_place, auto make, auto infer) {
    all.push_back({name, joined({activations, constants}), activations.size(), Type::int8, true,
                   in_place, make, infer});
  };
  constexpr Shape (*as_first)(const std::vector<Shape>&) = nullptr;

  const Names addition{"m", "e", "m_r", "e_r", "lo", "hi"};
  add("Requantize", {"z"}, saturation, -1, make_requantize, as_first);
  add("RequantizeAdd", {"z", "r"}, addition, 1, make_requantize_add, as_first);
  add("QLinear", {"x"}, joined({{"w", "bias"}, saturation}), -1, make_qlinear, infer::product);
  add("QLinearAdd", {"x", "r"}, joined({{"w", "bias"}, addition}), 1, make_qlinear_add,
      infer::second);
  all.push_back({"QLinearLut", joined({{"x", "w", "bias"}, saturation, {"table"}}), 1, Type::int8,
                 false, -1, make_qlinear_lut, infer::product});
  add("QMatMul", {"a", "b"}, joined({{"bias"}, saturation}), -1, make_qmatmul, infer::product);
  add("L2Normalize", {"q"}, saturation, -1, make_l2_normalize, as_first);
  add("MeanTokens", {"q"}, saturation, -1, make_mean_tokens, infer::mean_tokens);
  all.push_back({"Patches", {"x", "offset", "split", "flat"}, 1, Type::int8, false, -1,
                 make_patches, infer::patches});

  add("LutGelu", {"q"}, {"table"}, 0, make_lut_gelu, as_first);
  add("IVitGelu", {"q"}, joined({{"x0", "numerator"}, saturation}), 0, make_ivit_gelu, as_first);
  add("IBertGelu", {"q"}, joined({{"b", "c", "n", "one"}, saturation}), 0, make_ibert_gelu,
      as_first);

  add("IVitLayerNorm", {"q"}, joined({{"bq"}, saturation}), -1, make_ivit_layernorm, as_first);
  add("IBertLayerNorm", {"q"}, joined({{"bq", "shift"}, saturation}), -1, make_ibert_layernorm,
      as_first);
  add("FqVitLayerNorm", {"q"}, {"mant", "p", "bq", "lo", "hi"}, -1, make_fqvit_layernorm,
      as_first);

  add("IVitSoftmax", {"q"}, {"x0", "shift"}, -1, make_ivit_softmax, as_first);
  add("IBertSoftmax", {"q"}, {"x0", "b", "c", "m_p", "e_p", "shift", "zp"}, -1,
      make_ibert_softmax, as_first);
  add("LutSoftmax", {"q"}, {"table", "base", "shift", "zp"}, -1, make_lut_softmax, as_first);
  all.push_back({"FqVitSoftmax", {"q", "x0", "b", "c"}, 1, Type::int8, false, -1,
                 make_fqvit_softmax, as_first});

  using M = SoftmaxMethod;
  add_attention<M::ivit, true>(all, "IVitAttention", "IVitPackedAttention", "IVitWindowAttention",
                               {"x0", "m_w", "e_w"});
  add_attention<M::ivit, false>(all, "IVitNormalizedAttention", "IVitNormalizedPackedAttention",
                                "IVitNormalizedWindowAttention", {"x0", "shift"});
  add_attention<M::ibert, true>(all, "IBertAttention", "IBertPackedAttention",
                                "IBertWindowAttention", {"x0", "b", "c", "m_w", "e_w"});
  add_attention<M::ibert, false>(all, "IBertNormalizedAttention", "IBertNormalizedPackedAttention",
                                 "IBertNormalizedWindowAttention",
                                 {"x0", "b", "c", "m_p", "e_p", "shift", "zp"});
  add_attention<M::fqvit, true>(all, "FqVitAttention", "FqVitPackedAttention",
                                "FqVitWindowAttention", {"x0", "b", "c"});
  add_attention<M::fqvit, false>(all, "FqVitNormalizedAttention", "FqVitNormalizedPackedAttention",
                                 "FqVitNormalizedWindowAttention", {"x0", "b", "c"});
  add_attention<M::lut, true>(all, "LutAttention", "LutPackedAttention", "LutWindowAttention",
                              {"table", "base"});
  add_attention<M::lut, false>(all, "LutNormalizedAttention", "LutNormalizedPackedAttention",
                               "LutNormalizedWindowAttention", {"table", "base", "shift", "zp"});
  return all;
}

}  // namespace

const std::vector<Definition>& definitions() {
  static const std::vector<Definition> all = all_definitions();
  return all;
}

}  // namespace mnq
