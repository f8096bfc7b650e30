#include "ops/native/cuda/definitions.h"

#include <map>
#include <string>

#include "ops/native/cpu/path.h"
#include "ops/native/cuda/attention.h"
#include "ops/native/cuda/rows.h"

namespace mnq {
namespace {

// The method, form and layout that the name of an attention operator is made of.
std::unique_ptr<Kernel> make_attention_named(std::string name, const Node& node,
                                             std::unique_ptr<Kernel> contract) {
  const auto take = [&](const std::string& word) {
    if (name.compare(0, word.size(), word) != 0) return false;
    name.erase(0, word.size());
    return true;
  };
  using M = SoftmaxMethod;
  const M method = take("IVit") ? M::ivit : take("IBert") ? M::ibert : take("FqVit") ? M::fqvit
                                                                         : (take("Lut"), M::lut);
  const bool deferred = !take("Normalized");
  const AttentionLayout layout = take("Packed")   ? AttentionLayout::packed
                                 : take("Window") ? AttentionLayout::window
                                                  : AttentionLayout::separate;
  return make_device_attention(node, std::move(contract), method, deferred, layout);
}

}  // namespace

std::string device_lacking() { return device::lacking(); }

std::unique_ptr<Kernel> make_on_device(const Definition& definition, const Node& node) {
  const std::string lacking = device_lacking();
  if (!lacking.empty()) throw std::runtime_error(lacking);
  const std::string name = definition.name;
  auto contract = definition.make(node, path_named("portable"));
  static const std::map<std::string, MakeOnDevice*> makers = {
      {"Requantize", make_device_requantize},
      {"RequantizeAdd", make_device_requantize_add},
      {"QLinear", make_device_qlinear},
      {"QLinearAdd", make_device_qlinear_add},
      {"QLinearLut", make_device_qlinear_lut},
      {"QMatMul", make_device_qmatmul},
      {"L2Normalize", make_device_l2_normalize},
      {"MeanTokens", make_device_mean_tokens},
      {"Patches", make_device_patches},
      {"LutGelu", make_device_gelu},
      {"IVitGelu", make_device_row_gelu},
      {"IBertGelu", make_device_gelu},
      {"IVitLayerNorm", make_device_ivit_layernorm},
      {"IBertLayerNorm", make_device_ibert_layernorm},
      {"FqVitLayerNorm", make_device_fqvit_layernorm},
      {"IVitSoftmax", make_device_softmax<SoftmaxMethod::ivit>},
      {"IBertSoftmax", make_device_softmax<SoftmaxMethod::ibert>},
      {"FqVitSoftmax", make_device_softmax<SoftmaxMethod::fqvit>},
      {"LutSoftmax", make_device_softmax<SoftmaxMethod::lut>},
  };
  const auto found = makers.find(name);
  if (found != makers.end()) return found->second(node, std::move(contract));
  if (name.size() > 9 && name.compare(name.size() - 9, 9, "Attention") == 0) {
    return make_attention_named(name, node, std::move(contract));
  }
  throw Refusal("operator: expected one with a kernel for GPUs, found '" + name + "'");
}

void run_on_device(const Kernel& kernel, std::vector<Tensor> inputs, size_t activations,
                   void* output, size_t bytes) {
  std::vector<DeviceArray<char>> copies;
  for (size_t i = 0; i < activations; ++i) {
    const size_t size = count(inputs[i].shape) * size_of(inputs[i].type);
    copies.emplace_back(inputs[i].as<char>(), size, size);
    inputs[i].data = copies.back().data();
  }
  const DeviceArray<char> result(nullptr, 0, bytes);
  StreamContext context(nullptr);
  kernel.run(inputs, result.data(), context);
  device::copy_out(output, result.data(), bytes);
}

}  // namespace mnq
