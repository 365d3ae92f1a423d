"""ECG-MoE: front end, periodic experts, gates, fusion, heads and loss. Plain torch, no Ray and no DeepSpeed."""
