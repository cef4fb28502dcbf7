//! Logs of the CRI format.

use proto::cri;

use super::lab::{Lab, script};

#[tokio::test]
async fn lines_are_whole_long_or_unfinished() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let text = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo; echo short; printf unfinished";
    let id = lab.run(&pod, script("main", text)).await;
    lab.exited(&id).await;
    let log = lab.log_until("main.log", |log| log.ends_with("unfinished\n")).await;
    let mut entries = Vec::new();
    for line in log.lines() {
        let mut parts = line.splitn(4, ' ');
        let (time, stream) = (parts.next().unwrap(), parts.next().unwrap());
        assert_eq!(
            (time.len(), &time[10..11], &time[29..], stream),
            (30, "T", "Z", "stdout"),
            "{line}"
        );
        assert!(time.parse::<proto::time::Time>().is_ok(), "{time}");
        entries.push((parts.next().unwrap(), parts.next().unwrap().len()));
    }
    assert_eq!(entries, [("P", 16384), ("P", 16384), ("F", 7232), ("F", 0), ("F", 5), ("P", 10)]);
    lab.finish().await;
}

#[tokio::test]
async fn lines_of_every_length_end_where_they_do() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    // Of the byte next to a newline, and all at once.
    let text = "n=0; while [ $n -lt 300 ]; do head -c $n /dev/zero | tr '\\0' '\\013'; echo; \
                n=$((n+1)); done > /lines; cat /lines >&2";
    let id = lab.run(&pod, script("main", text)).await;
    lab.exited(&id).await;
    let log = lab.log("main.log");
    let entries: Vec<&str> = log.split_terminator('\n').map(|line| &line[31..]).collect();
    let written: Vec<String> =
        (0..300).map(|n| format!("stderr F {}", "\u{b}".repeat(n))).collect();
    assert_eq!(entries, written);
    lab.finish().await;
}

#[tokio::test]
async fn rotation_loses_nothing() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "seq 1 200000; echo end; sleep 1000")).await;
    let path = lab.log_folder().join("main.log");
    let mut rotated = Vec::new();
    for number in 0..5 {
        let old = lab.log_folder().join(format!("main.log.{number}"));
        std::fs::rename(&path, &old).unwrap();
        let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
        lab.runtime.reopen_container_log(request).await.unwrap();
        rotated.push(old);
    }
    let complete = |log: &str| log.contains("stdout F end");
    let in_old = rotated.iter().any(|old| complete(&std::fs::read_to_string(old).unwrap()));
    if !in_old {
        lab.log_until("main.log", complete).await;
    }
    rotated.push(path);
    let all: String = rotated.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let numbers: Vec<usize> =
        all.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert_eq!(numbers.len(), 200_000);
    assert!(numbers.iter().enumerate().all(|(at, number)| at + 1 == *number));
    lab.finish().await;
}
