//! scratch
use indicatif::ProgressBar;
use roundelay::bench::*;
use roundelay::dev::demo;
#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let bar = ProgressBar::hidden();
    let n = |i: usize, d: f64| a.get(i).and_then(|x| x.parse().ok()).unwrap_or(d);
    let report = match a[1].as_str() {
        "demo" => {
            let t = std::time::Instant::now();
            let o = demo::run(3, false, &mut |s| println!("{:6} {}", s.at_ms, s.text)).await;
            println!("{o:?} {:?}", t.elapsed());
            return;
        }
        "publish" => {
            publish::run(
                &publish::PublishOptions {
                    size: 256,
                    in_flight: n(2, 512.0) as usize,
                    length: Length::Seconds(n(3, 5.0)),
                    dir: Some("/work/target-bench/homes".into()),
                },
                &bar,
            )
            .await
        }
        "deliver" => {
            deliver::run(
                &deliver::DeliverOptions {
                    size: 256,
                    nodes: n(7, 5.0) as usize,
                    publishers: n(6, 1.0) as usize,
                    in_flight: 512,
                    topics: n(4, 1.0) as usize,
                    rate: Some(n(3, 0.0)).filter(|r| *r > 0.0),
                    length: Length::Seconds(n(2, 5.0)),
                    dir: Some("/work/target-bench/homes".into()),
                },
                &bar,
            )
            .await
        }
        part => {
            let part = match part {
                "missed" => reconcile::Part::Missed,
                "changed" => reconcile::Part::Changed,
                _ => reconcile::Part::InSync,
            };
            reconcile::run(
                &reconcile::ReconcileOptions {
                    parts: vec![part],
                    size: 256,
                    missed: n(2, 100000.0) as u64,
                    logs: n(2, 10000.0) as usize,
                    changed: 10,
                    quiet_s: 32.0,
                    program: "x".into(),
                    dir: Some("/work/target-bench/homes".into()),
                },
                &bar,
            )
            .await
        }
    };
    match report {
        Ok(r) => println!("{r}"),
        Err(e) => println!("ERR {e}"),
    }
}
