<?php
// Requests of a PHP site, one after another, each on a connection of its own: some reads and now
// and then a write that must be found by the next request. Prints a line of JSON when told to stop
// (a line, or the end, on standard input) or when the time is over.
//
//   php load.php PORT SECONDS
declare(strict_types=1);

$port = (int) $argv[1];
$until = microtime(true) + (float) $argv[2];
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
stream_set_blocking(STDIN, false);

$connect = fn () => new mysqli('127.0.0.1', 'app', 'app-secret', 'app', $port);
$connect()->query('CREATE TABLE IF NOT EXISTS visits (id INT AUTO_INCREMENT PRIMARY KEY, n INT)');
echo "ready\n";

[$requests, $failed, $stale, $slowest, $errors, $servers] = [0, 0, 0, 0.0, [], []];
while (microtime(true) < $until) {
    $line = fgets(STDIN);
    if ($line !== false || feof(STDIN)) {
        break;
    }
    $begin = microtime(true);
    $requests++;
    try {
        $db = $connect();
        if ($requests % 10 === 1) {
            $db->query("INSERT INTO visits (n) VALUES ($requests)");
            $id = $db->insert_id;
            $db->close();
            $db = $connect();
            if ($db->query("SELECT n FROM visits WHERE id = $id")->num_rows !== 1) {
                $stale++;
            }
        }
        for ($i = 0; $i < 3; $i++) {
            $server = 'db' . $db->query('SELECT @@server_id, COUNT(*) FROM visits')->fetch_row()[0];
            $servers[$server] = ($servers[$server] ?? 0) + 1;
        }
        $db->close();
    } catch (mysqli_sql_exception $e) {
        $failed++;
        $errors[] = $e->getCode() . ' ' . $e->getMessage();
    }
    $slowest = max($slowest, microtime(true) - $begin);
}
ksort($servers);
echo json_encode([
    'requests' => $requests, 'failed' => $failed, 'stale' => $stale,
    'slowest_ms' => round($slowest * 1000, 1), 'reads' => (object) $servers,
    'errors' => array_slice($errors, 0, 5),
]), "\n";
