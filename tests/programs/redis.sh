# A server of keys that saves itself in a child while clients write to it; then one that loads what was saved.
# $1 is a free port. Prints the same on every machine.
set -eu
port=$1
here=$(mktemp -d)
cd "$here"

serve() {
    redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$here" --logfile "$here/log" \
        --enable-debug-command yes --appendonly no "$@" &
    server=$!
    until [ "$(redis-cli -p "$port" ping 2>/dev/null)" = PONG ]; do sleep 0.05; done
}

ask() {
    redis-cli -p "$port" "$@"
}

# Commands for `redis-cli --pipe`: strings, hashes, lists, sorted sets. $1 names the writer.
load() {
    awk -v who="$1" 'BEGIN {
        for (i = 0; i < 1500; i++) {
            printf "SET %s:%d %01500d\r\n", who, i, i * 7
            printf "HSET %s:hash f%d v%d\r\n", who, i % 500, i
            printf "RPUSH %s:list %d\r\n", who, i
            printf "ZADD %s:sorted %d m%d\r\n", who, (i * 37) % 1009, i
        }
    }' | redis-cli -p "$port" --pipe | grep -o 'errors: .*'
}

saved() {
    until ask info persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.05; done
    ask info persistence | grep -o 'rdb_last_bgsave_status:[a-z]*'
}

serve
load first
# One saves while three write.
ask bgsave
for who in a b c; do load $who & writers="${writers-} $!"; done
wait $writers
saved
ask bgsave
saved
ask dbsize
ask debug digest >"$here/digest"
ask eval 'local n = 0; for i = 1, 100000 do n = n + i % 7 end; return n' 0
ask multi | tr '\n' ' '
ask lrange a:list 5 8 | tr '\n' ' '
ask zrange b:sorted 0 3 | tr '\n' ' '
echo
ask shutdown nosave || true
wait $server
serve
ask dbsize
[ "$(ask debug digest)" = "$(cat "$here/digest")" ] && echo 'loaded what was saved'
ask debug digest
ask config get maxmemory-policy | tail -1
ask flushall
ask shutdown nosave || true
wait $server
if [ "${2-}" = log ]; then cat "$here/log" >&2; fi
rm -r "$here"
