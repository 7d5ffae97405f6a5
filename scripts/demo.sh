# Runs inside the microVM: pipelines, each stage a forked process that shares its parent's pages
# copy-on-write until it writes to them.
echo "Hello from $(uname -s) on anonmem: a shell, $(nproc) CPUs, every page from the library."
i=1
while [ $i -le 5 ]; do
    seq 1 $((i * 400)) | sort -rn | awk '{ sum += $1 } END { printf "pipeline: sum of %d numbers is %d\n", NR, sum }'
    i=$((i + 1))
done
echo "the quick brown fox jumps over the lazy dog" | tr ' ' '\n' | sort | uniq | md5sum
(
    secret=child
    echo "a $secret changes its copy of the shell's memory"
)
echo "the shell's own is ${secret:-untouched}"
for n in 1 2 3 4; do
    (dd if=/dev/zero bs=64k count=16 2>/dev/null | md5sum >/tmp/sum.$n) &
done
wait
cat /tmp/sum.* | sort -u | wc -l | sed 's/^ *\([0-9]*\)$/four processes at once, \1 answer/'
