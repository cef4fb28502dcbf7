use super::*;

#[test]
fn plugins_are_chosen_by_name() {
    let names = |on: &[&str], off: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        Chain::choose(&list(on), &list(off)).map(|chain| chain.names())
    };
    let usual = names(&[], &[]).unwrap();
    assert!(usual.contains(&"LimitRanger") && !usual.contains(&"AlwaysPullImages"));
    assert_eq!(usual.last(), Some(&"ResourceQuota"));
    assert_eq!(names(&["AlwaysPullImages"], &[]).unwrap().len(), usual.len() + 1);
    assert_eq!(names(&[], &["ServiceAccount"]).unwrap().len(), usual.len() - 1);
    let error = names(&["Nothing"], &[]).unwrap_err().to_string();
    let expected = "enable-admission-plugins plugin \"Nothing\" is unknown; there are: ";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(
        names(&["Priority"], &["Priority"]).unwrap_err().to_string(),
        "Priority in enable-admission-plugins and disable-admission-plugins overlapped"
    );
}
