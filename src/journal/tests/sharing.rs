//! One journal for many tasks.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_has_its_entries_in_the_order_of_its_calls() {
    let place = Place::new();
    let handle = place.open().share().expect("a thread");
    let tasks = (0..32).map(|task| {
        let handle = handle.clone();
        tokio::spawn(async move {
            let device = device(&format!("device-{task}"));
            for n in 0..10_u8 {
                let seq = handle.append(&device, "step", [n]).await.expect("writes");
                let last = handle.events(&device).await.expect("reads").pop().expect("there");
                assert_eq!((last.seq, last.body), (seq, vec![n]), "what was acknowledged can be read");
            }
            let first = handle.write(vec![
                Write::event(&device, "a", "1"),
                Write::seal(&device, "source-1", b"2"),
                Write::event(&device, "b", "3"),
            ]);
            let first = first.await.expect("writes");
            assert_eq!(handle.unseal(first + 1).await.expect("opens").as_slice(), b"2");
            let latest = handle.latest_seal(&device, "source-1").await.expect("reads").expect("there");
            assert_eq!(latest.0, first + 1);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("succeeds");
    }
    handle.set_meta("api-key-id", "one").await.expect("writes");
    let meta = handle.read(|journal| journal.meta("api-key-id")).await.expect("reads");
    assert_eq!(meta.as_deref(), Some("one"));
    let other = handle.clone();
    handle.close().await.expect("closes");
    assert_eq!(other.append(&device("a"), "x", "").await.expect_err("closed").kind, ErrorKind::Closed);
    assert!(!place.beside("-wal").exists(), "closing tidies up before it returns");
    let journal = place.open();
    for device in journal.devices().expect("reads") {
        let events = journal.events(&device).expect("reads");
        let steps: Vec<_> = events.iter().filter(|e| e.kind == "step").map(|e| e.body[0]).collect();
        assert_eq!(steps, (0..10).collect::<Vec<_>>());
        assert_eq!(events.len(), 12);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever tasks write at the same time, each device has its entries as its task wrote them, after reopening too.
    #[test]
    fn entries_of_many_tasks_that_are_written_together_keep_their_order(
        tasks in prop::collection::vec(
            prop::collection::vec(
                prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 1..4),
                0..8,
            ),
            1..10,
        ),
    ) {
        let place = Place::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().expect("a runtime");
        runtime.block_on(async {
            let handle = place.open().share().expect("a thread");
            let running = tasks.clone().into_iter().enumerate().map(|(task, calls)| {
                let handle = handle.clone();
                tokio::spawn(async move {
                    let device = device(&format!("device-{task}"));
                    for call in calls {
                        let writes = call.iter().map(|(sealed, body)| match sealed {
                            true => Write::seal(&device, "source-1", body),
                            false => Write::event(&device, "step", body.clone()),
                        });
                        handle.write(writes.collect()).await.expect("writes");
                    }
                })
            });
            for task in running.collect::<Vec<_>>() {
                task.await.expect("ends");
            }
            handle.close().await.expect("closes");
        });
        let journal = place.open();
        for (task, calls) in tasks.iter().enumerate() {
            let device = device(&format!("device-{task}"));
            let events = journal.events(&device).expect("reads").into_iter().map(|e| (e.seq, false, e.body));
            let seals = journal.seals(&device).expect("reads").into_iter();
            let seals = seals.map(|s| (s.id, true, journal.unseal(s.id).expect("opens").to_vec()));
            let mut found: Vec<_> = events.chain(seals).collect();
            found.sort();
            let found: Vec<_> = found.into_iter().map(|(_, sealed, body)| (sealed, body)).collect();
            prop_assert_eq!(&found, &calls.concat());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_every_task_gets_the_same_error() {
    let place = Place::new();
    let journal = place.open();
    journal.connection.pragma_update_and_check(None, "max_page_count", 20, |_| Ok(())).expect("limits");
    let handle = journal.share().expect("a thread");
    let large = handle.append(&device("a"), "big", vec![0; MAX_EVENT + 1]).await.expect_err("too large");
    assert!(matches!(large.kind, ErrorKind::TooLarge { .. }));
    handle.append(&device("a"), "fits", "").await.expect("one bad call fails alone");
    let tasks = (0..8).map(|_| {
        let handle = handle.clone();
        tokio::spawn(async move {
            loop {
                if let Err(error) = handle.append(&device("a"), "step", vec![7; 3000]).await {
                    return error;
                }
            }
        })
    });
    let mut errors = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        errors.push(task.await.expect("ends"));
    }
    assert_eq!(errors[0].kind, ErrorKind::Full);
    assert!(errors.iter().all(|e| *e == errors[0]));
    assert_eq!(handle.seal(&device("a"), "source-1", b"").await.expect_err("poisoned"), errors[0]);
    handle.events(&device("a")).await.expect("what is there can still be read");
    assert_eq!(handle.close().await.expect_err("poisoned"), errors[0]);
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_journal() {
    let place = Place::new();
    let handle = place.open().share().expect("a thread");
    // A call that nobody waits for takes effect all the same.
    let device = device("a");
    let call = handle.append(&device, "step", "1");
    let _ = tokio::time::timeout(std::time::Duration::ZERO, call).await;
    drop(handle);
    // Opening waits for the lock.
    assert_eq!(place.open().events(&device).expect("reads").len(), 1);
}

/// How fast the disk makes entries durable. For people: `cargo test --release --lib -- --ignored --nocapture throughput`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    let (place, start) = (Place::new(), Instant::now());
    let mut journal = place.open();
    for group in 0..1000 {
        let entries = (0..30).map(|n| {
            let device = device(&format!("device-{}", group * 10 + n / 3));
            match n % 3 {
                0 => Write::seal(&device, "source-1", &[7; 4000]),
                _ => Write::event(&device, "step", vec![b'x'; 300]),
            }
        });
        journal.write(&entries.collect::<Vec<_>>()).expect("writes");
    }
    println!("30,000 entries of 10,000 devices in groups of 30: written in {:?}", start.elapsed());
    drop(journal);
    let start = Instant::now();
    let journal = place.open();
    println!("checked and opened in {:?}", start.elapsed());
    let start = Instant::now();
    journal.for_each_device::<Error>(|_, _| Ok(())).expect("replays");
    println!("replayed in {:?}", start.elapsed());
    let start = Instant::now();
    for n in 0..1000 {
        journal.latest_seal(&device(&format!("device-{n}")), "source-1").expect("reads").expect("there");
    }
    println!("a seal re-read in {:?}", start.elapsed() / 1000);

    for tasks in [1, 16, 64, 256] {
        let place =
            Place { folder: tempfile::tempdir_in(".").expect("a folder on this disk"), ..Place::new() };
        let place = Place { path: place.folder.path().join("acme.journal"), ..place };
        let handle = place.open().share().expect("a thread");
        let each = 4096 / tasks;
        let start = Instant::now();
        let running = (0..tasks).map(|task| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let device = device(&format!("device-{task}"));
                for _ in 0..each {
                    handle.append(&device, "step", vec![b'x'; 200]).await.expect("writes");
                }
            })
        });
        for task in running.collect::<Vec<_>>() {
            task.await.expect("ends");
        }
        let rate = (tasks * each) as f64 / start.elapsed().as_secs_f64();
        handle.close().await.expect("closes");
        let start = Instant::now();
        drop(place.open());
        println!("{tasks:>4} tasks: {rate:>8.0} entries/s; reopening took {:?}", start.elapsed());
    }
}
