#include "decoder_layer.h"

#include <algorithm>

#include "head.h"
#include "thread_pool.h"

namespace qw {
namespace {

// bf16 [T, width] in scratch memory
int64_t rows_bytes(int64_t num_tokens, int64_t width) { return num_tokens * width * 2; }
uint16_t* rows(Scratch purpose, int64_t num_tokens, int64_t width) {
    return static_cast<uint16_t*>(scratch(purpose, rows_bytes(num_tokens, width)));
}

bool share_activations(const Linear& a, const Linear& b) {
    return a.is_packed && b.is_packed && a.packed.bits == b.packed.bits && a.packed.unit == b.packed.unit &&
           a.packed.order == b.packed.order;
}

// h = up(x) * silu(gate(x))
uint16_t* swiglu(const Layer& layer, const uint16_t* x, int64_t num_tokens, Low low, const LayerAdapters& adapters,
                 const RowGroups& groups) {
    const int64_t width = layer.intermediate_size;
    uint16_t* h = rows(Scratch::hidden, num_tokens, width);
    if (share_activations(layer.up, layer.gate)) {
        const PackedWeight& up = layer.up.packed;
        const LowRank* const linears[] = {adapters.up, adapters.gate};
        LowProducts added[2];
        low_products(linears, 2, groups, x, up.num_inputs, up.num_inputs, added);
        const Activations a = quantize_activations(x, num_tokens, up.num_inputs, up.num_inputs, up.order, up.bits, up.unit, low);
        quantized_swiglu(up, layer.gate.packed, a, h, width, added[0], added[1]);
    } else {
        uint16_t* gate = rows(Scratch::gate, num_tokens, width);
        linear(layer.up, x, num_tokens, layer.hidden_size, low, {h, width, Store::BF16}, adapters.up, groups);
        linear(layer.gate, x, num_tokens, layer.hidden_size, low, {gate, width, Store::BF16}, adapters.gate, groups);
        silu_mul(h, gate, num_tokens * width, h);
    }
    return h;
}

}  // namespace

void linear(const Linear& weight, const uint16_t* x, int64_t num_tokens, int64_t stride, Low low, const Output& y,
            const LowRank* adapters, const RowGroups& groups) {
    LowProducts added;
    const PackedWeight& w = weight.packed;
    low_products(&adapters, 1, groups, x, weight.is_packed ? w.num_inputs : weight.dense.num_inputs, stride, &added);
    if (!weight.is_packed) return dense_linear(weight.dense, x, num_tokens, stride, y, added);
    quantized_linear(w, quantize_activations(x, num_tokens, w.num_inputs, stride, w.order, w.bits, w.unit, low), y, added);
}

void decoder_layer(const Layer& layer, float* x, int64_t num_tokens, const Rotation& rotation, const CacheLayer& cache,
                   const AttentionBatch& batch, Low low, const LayerAdapters& adapters, const RowGroups& groups) {
    const int64_t size = layer.hidden_size, query_width = int64_t(layer.num_heads) * cache.head_dim;
    const int64_t qkv_width = query_width + 2 * int64_t(cache.num_kv_heads) * cache.head_dim;
    uint16_t* normed = rows(Scratch::norm, num_tokens, size > query_width ? size : query_width);
    uint16_t* qkv = rows(Scratch::qkv, num_tokens, qkv_width);

    rms_norm(x, layer.attention_norm, layer.eps, num_tokens, size, normed);
    linear(layer.qkv, normed, num_tokens, size, low, {qkv, qkv_width, Store::BF16}, adapters.qkv, groups);
    rotate_and_store(qkv, num_tokens, layer.num_heads, layer.head_norms, rotation, cache);
    uint16_t* attended = normed;
    paged_attention(qkv, qkv_width, layer.num_heads, cache, batch, attended, query_width);
    linear(layer.output, attended, num_tokens, query_width, low, {x, size, Store::ADD_ROUNDED}, adapters.output, groups);

    rms_norm(x, layer.mlp_norm, layer.eps, num_tokens, size, normed);
    const uint16_t* h = swiglu(layer, normed, num_tokens, low, adapters, groups);
    linear(layer.down, h, num_tokens, layer.intermediate_size, low, {x, size, Store::ADD_ROUNDED}, adapters.down, groups);
}

StepBytes step_bytes(const StepShape& s) {
    const int64_t query_width = int64_t(s.num_heads) * s.head_dim;
    const int64_t qkv_width = query_width + 2 * int64_t(s.num_kv_heads) * s.head_dim;
    const int64_t most_inputs = std::max({s.hidden_size, query_width, s.intermediate_size});
    int64_t buffers[int(Scratch::COUNT)] = {};
    const auto take = [&](Scratch purpose, int64_t bytes) { buffers[int(purpose)] = std::max(buffers[int(purpose)], bytes); };
    const auto take_activations = [&](int64_t num_tokens, int64_t num_inputs, int unit) {
        const ActivationBytes bytes = activation_bytes(num_tokens, num_inputs, unit);
        take(Scratch::activations, bytes.values), take(Scratch::parts, bytes.parts), take(Scratch::sums, bytes.sums);
    };
    if (s.bits)
        take_activations(s.num_tokens, most_inputs, s.unit);
    else
        take(Scratch::activations, padded_bytes(s.num_tokens, most_inputs));
    take(Scratch::activations, padded_bytes(s.num_rows, s.hidden_size));
    if (s.adapter_rank) {
        take(Scratch::activations, padded_bytes(s.num_tokens, most_inputs));
        take(Scratch::low_rank, 2 * low_bytes(s.num_tokens, s.adapter_rank));
    }
    if (s.has_packed_head) {
        take_activations(s.num_rows, s.hidden_size, GROUP);
        take(Scratch::candidates, candidates_bytes(s.num_rows, s.vocab_size));
    }
    take(Scratch::norm, rows_bytes(s.num_tokens, std::max(s.hidden_size, query_width)));
    take(Scratch::qkv, rows_bytes(s.num_tokens, qkv_width));
    take(Scratch::hidden, rows_bytes(s.num_tokens, s.intermediate_size));
    if (!s.bits || s.act_order) take(Scratch::gate, rows_bytes(s.num_tokens, s.intermediate_size));  // not share_activations
    take(Scratch::attention, attention_bytes(s.context, s.num_threads));
    int64_t shared = 0;
    for (int64_t bytes : buffers) shared += bytes;
    return {shared, std::max(s.bits || s.has_packed_head ? sums_bytes(std::max(s.num_tokens, s.num_rows), 2) : 0,
                             attention_bytes_of_thread())};
}

}  // namespace qw
