// Requantize and RequantizeAdd (ops/requantize/SPEC.md, ops/requantize_add/SPEC.md).
#include "ops/native/cuda/rescale.h"
#include "ops/native/cuda/rows.h"

namespace mnq {
namespace {

struct Job {
  int64_t elements, columns;
  Integers z, r;  // r without data: none
  Places r_places;
  Scale scale, residual_scale;
  Codes y;
};

MNQ_KERNEL requantize_kernel(Job job) {
  const int64_t i = own_element();
  if (i >= job.elements) return;
  const int64_t row = i / job.columns, column = i % job.columns;
  int64_t code = rescale_at(read(job.z, i), job.scale, row, column);
  if (job.r.data != nullptr) {
    const int64_t r = read(job.r, place(job.r_places, row, column));
    code += rescale_at(r, job.residual_scale, row, column);
  }
  write(job.y, i, code);
}

class DeviceRequantize : public DeviceKernel {
 public:
  DeviceRequantize(const Node& node, std::unique_ptr<Kernel> contract, bool residual)
      : DeviceKernel(std::move(contract)),
        residual_(residual),
        codes_(codes_of(node)),
        scale_(node, "m", "e") {
    if (residual) residual_scale_ = DeviceScale(node, "m_r", "e_r");
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    const Tensor& z = inputs[0];
    Job job{};
    job.elements = count(z.shape);
    job.columns = z.shape.empty() ? 1 : z.shape.back();
    if (job.elements == 0) return;
    job.z = {z.data, z.type};
    job.scale = scale_.of(z.shape);
    if (residual_) {
      job.r = {inputs[1].data, inputs[1].type};
      job.r_places = places_of(RowBroadcast("r", inputs[1].shape, z.shape));
      job.residual_scale = residual_scale_.of(z.shape);
    }
    job.y = at(codes_, output);
    launch(requantize_kernel, by_element(job.elements), context.stream(), job);
  }

 private:
  bool residual_;
  Codes codes_;
  DeviceScale scale_, residual_scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_device_requantize(const Node& node, std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceRequantize>(node, std::move(contract), false);
}

std::unique_ptr<Kernel> make_device_requantize_add(const Node& node,
                                                   std::unique_ptr<Kernel> contract) {
  return std::make_unique<DeviceRequantize>(node, std::move(contract), true);
}

}  // namespace mnq
