//! Circles of files: sets in which every file reaches every other.

use super::resolve::Import;

/// Every set of two files and more that import one another, each sorted, the sets too.
pub(crate) fn circles(files: usize, imports: &[Import]) -> Vec<Vec<usize>> {
    let mut next = vec![Vec::new(); files];
    for import in imports {
        next[import.from].push(import.to);
    }
    let reach: Vec<Vec<bool>> = (0..files).map(|from| reachable(&next, from)).collect();
    let mut seen = vec![false; files];
    let mut found = Vec::new();
    for a in 0..files {
        if seen[a] {
            continue;
        }
        let set: Vec<usize> = (a..files).filter(|&b| b == a || (reach[a][b] && reach[b][a])).collect();
        for &file in &set {
            seen[file] = true;
        }
        if set.len() > 1 {
            found.push(set);
        }
    }
    found
}

fn reachable(next: &[Vec<usize>], from: usize) -> Vec<bool> {
    let mut reached = vec![false; next.len()];
    let mut todo = vec![from];
    while let Some(file) = todo.pop() {
        for &to in &next[file] {
            if !reached[to] {
                reached[to] = true;
                todo.push(to);
            }
        }
    }
    reached
}

/// The shortest way from `start` back to `start`, as imports.
pub(crate) fn shortest(imports: &[Import], start: usize) -> Vec<&Import> {
    let mut ways: Vec<Vec<&Import>> = imports.iter().filter(|i| i.from == start).map(|i| vec![i]).collect();
    let mut seen = vec![start];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let at = way[way.len() - 1].to;
            if at == start {
                return way;
            }
            if seen.contains(&at) {
                continue;
            }
            seen.push(at);
            for import in imports.iter().filter(|i| i.from == at) {
                longer.push(way.iter().copied().chain([import]).collect());
            }
        }
        ways = longer;
    }
    Vec::new()
}
