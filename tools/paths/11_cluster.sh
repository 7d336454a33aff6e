# title: A collection on a Ray cluster
# extras: ray
# Without an address, and without a cluster that this machine is in, this machine is the cluster.
earvae library music/ -o latents/
earvae library music/ -o on_ray/ --ray local
# The same bytes, but for the times in summary.json.
diff -r -x summary.json -x .earvae latents/ on_ray/ && echo the same
# Run again, it finds everything done; so would a run without --ray.
earvae library music/ -o on_ray/ --ray local
earvae library music/ -o on_ray/
