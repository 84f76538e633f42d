//! Lists that stay, lists that change while they are read, and servers that count wrongly.

use super::{
    server::{Reply, Seen, Server},
    *,
};

const LIST: &str = "/ttn.lorawan.v3.EndDeviceRegistry/List";

fn list(page_size: u32) -> List {
    let request = proto::message("ListEndDevicesRequest");
    List { method: LIST, request, items: "end_devices", page_size, paths: vec![] }
}

fn page(seen: &Seen) -> (usize, usize) {
    let request =
        DynamicMessage::decode(proto::descriptor("ListEndDevicesRequest"), &seen.body[5..]).expect("decodes");
    (path::number(&request, "page") as usize, path::number(&request, "limit") as usize)
}

fn answer(devices: &[String], (page, limit): (usize, usize), total: Option<usize>) -> Reply {
    let mut message = proto::message("EndDevices");
    let items = devices.iter().skip((page - 1) * limit).take(limit).map(|id| Value::Message(device(id)));
    path::set(&mut message, "end_devices", Value::List(items.collect()));
    Reply::Message(message, total.map(|t| ("x-total-count", t.to_string())).into_iter().collect())
}

fn fleet(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("meter-{n:03}")).collect()
}

async fn read(server: &Server, page_size: u32) -> Result<Vec<String>, Error> {
    let listing = client(server.endpoint.clone())
        .pages(list(page_size), Call::safe(About::application("fleet")))
        .await?;
    Ok(listing.items.iter().map(|d| path::string(d, "ids.device_id")).collect())
}

#[tokio::test]
async fn a_list_is_read_to_its_end() {
    for (count, size) in [(0, 10), (1, 10), (10, 10), (11, 10), (25, 10), (20, 10)] {
        let server = Server::start(move |_, seen| answer(&fleet(count), page(seen), Some(count))).await;
        assert_eq!(read(&server, size).await.expect("reads"), fleet(count));
    }
}

#[tokio::test]
async fn a_list_without_a_total_ends_with_a_short_page() {
    for count in [0, 9, 10, 11] {
        let server = Server::start(move |_, seen| answer(&fleet(count), page(seen), None)).await;
        assert_eq!(read(&server, 10).await.expect("reads"), fleet(count));
    }
}

#[tokio::test]
async fn a_device_deleted_and_another_created_while_reading_leave_no_gap() {
    // After the first page, meter-000 goes and meter-999 comes: the total stays, and meter-010 would be skipped.
    let server = Server::start(|n, seen| {
        let mut devices = fleet(20);
        if n > 0 {
            devices.remove(0);
            devices.push("meter-999".into());
        }
        answer(&devices, page(seen), Some(20))
    })
    .await;
    let read = read(&server, 10).await.expect("reads again");
    assert!(read.contains(&"meter-010".to_owned()) && read.contains(&"meter-999".to_owned()));
    assert!(!read.contains(&"meter-000".to_owned()));
}

#[tokio::test]
async fn a_list_that_never_rests_is_an_error() {
    let server = Server::start(|n, seen| answer(&fleet(20 + n), page(seen), Some(20 + n))).await;
    let error = read(&server, 10).await.expect_err("never at rest");
    assert_eq!(error.message(), "the list changed each of the 6 times that it was read");
    assert!(error.to_string().starts_with("application `fleet`: EndDeviceRegistry/List at the target"));
}

#[tokio::test]
async fn a_total_that_lies_or_a_page_that_repeats_does_not_go_on_for_ever() {
    let lie = Server::start(|_, seen| answer(&fleet(20), page(seen), Some(1_000_000))).await;
    assert_eq!(*read(&lie, 10).await.expect_err("too few").kind(), Kind::Protocol);
    let repeats = Server::start(|_, _| answer(&fleet(20), (1, 10), Some(20))).await;
    assert_eq!(*read(&repeats, 10).await.expect_err("twice").kind(), Kind::Protocol);
}

#[tokio::test]
async fn pages_shrink_until_they_fit_a_message() {
    let server = Server::start(|_, seen| answer(&fleet(30), page(seen), Some(30))).await;
    let client = client_with(server.endpoint.clone(), Settings { max_message: 200, ..settings() });
    let listing = client.pages(list(30), Call::safe(about())).await.expect("reads");
    assert_eq!(listing.items.len(), 30);
}

#[tokio::test]
async fn a_list_leaves_out_paths_that_the_server_does_not_know() {
    let server = Server::start(|_, seen| {
        let request = DynamicMessage::decode(proto::descriptor("ListEndDevicesRequest"), &seen.body[5..])
            .expect("decodes");
        if crate::map::mask::of(&request).contains(&"label_ids".to_owned()) {
            let paths = serde_json::json!({"forbidden_paths": ["label_ids"]});
            return Reply::refused(
                Code::InvalidArgument,
                "pkg/rpcmiddleware/validator",
                "field_mask_paths",
                paths,
            );
        }
        answer(&fleet(3), page(seen), Some(3))
    })
    .await;
    let list = List { paths: vec!["name".into(), "label_ids".into()], ..list(100) };
    let listing = client(server.endpoint.clone()).pages(list, Call::safe(about())).await.expect("reads");
    assert_eq!((listing.items.len(), listing.dropped), (3, vec!["label_ids".to_owned()]));
}

#[test]
fn calls_can_move_between_threads() {
    fn check<T: Send>(_: &T) {}
    let client = client(plaintext(1));
    check(&client.pages(list(1), Call::safe(about())));
    check(&client.unary_masked(LIST, list(1).request, &["name"], Call::safe(about())));
}
